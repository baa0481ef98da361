import CLinux
import FakeGuest
import Glibc
import Linux
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: bytes sent by reference")
struct QEMUStageTests {
  /// Both ends of a socket whose sending end takes about so many bytes.
  private final class Pipe {
    let sender: SharedFD
    let reader: SharedFD
    let room: Int

    init(_ bytes: CInt) throws {
      ph_ignore_sigpipe()
      var ends: (SharedFD?, SharedFD?) = (nil, nil)
      try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
      sender = try #require(ends.0)
      reader = try #require(ends.1)
      _ = ph_set_send_buffer(sender.raw, bytes)
      room = Int(ph_send_buffer(sender.raw))
      try UnixSocket.setNonblocking(sender.raw, true)
    }

    /// Reads at most so many bytes that are there.
    func read(_ most: Int) -> [UInt8] {
      [UInt8](unsafeUninitializedCapacity: most) { buffer, count in
        count = max(0, recv(reader.raw, buffer.baseAddress, most, CInt(MSG_DONTWAIT)))
      }
    }

    func readAll() -> [UInt8] {
      var all: [UInt8] = []
      while true {
        let some = read(1 << 16)
        if some.isEmpty { return all }
        all += some
      }
    }
  }

  private func put(_ bytes: [UInt8], into stage: inout QEMUStage, _ pipe: Pipe) throws {
    let room = try stage.reserve(bytes.count, for: pipe.sender.raw)
    bytes.withUnsafeBytes {
      UnsafeMutableRawBufferPointer(start: room, count: $0.count).copyMemory(from: $0)
    }
    _ = try stage.drain(pipe.sender.raw)
  }

  @Test(
    "A reader gets every byte as it was staged, however late it reads",
    arguments: [UInt64(1), 2, 3, 4], [CInt(1), 60_000, 1 << 20])
  func stream(seed: UInt64, sendBuffer: CInt) throws {
    let pipe = try Pipe(sendBuffer)
    var random = SeededRandom(seed: seed)
    var stage = QEMUStage(socketRoom: pipe.room)
    var sent: [UInt8] = []
    var received: [UInt8] = []
    for step in 0..<400 {
      if stage.waiting == 0 {
        let size = random.next() % 4 == 0 ? Int(random.next() % 200_000) : Int(random.next() % 9000)
        let bytes = [UInt8](repeating: UInt8(truncatingIfNeeded: step &+ 1), count: size + 1)
        sent += bytes
        try put(bytes, into: &stage, pipe)
      } else {
        _ = try stage.drain(pipe.sender.raw)
      }
      if random.next() % 3 == 0 { received += pipe.read(Int(random.next() % 300_000) + 1) }
    }
    while true {
      let some = pipe.readAll()
      if some.isEmpty, stage.waiting == 0 { break }
      received += some
      _ = try stage.drain(pipe.sender.raw)
    }
    // Not in #expect: it would compare and print megabytes.
    let isSame = received == sent
    #expect(isSame, "seed \(seed), SO_SNDBUF \(pipe.room)")
  }

  @Test("Bytes that the reader has not taken survive those staged after them")
  func unread() throws {
    let pipe = try Pipe(4 << 20)
    var stage = QEMUStage(socketRoom: pipe.room)
    let pictures = (1...3).map { [UInt8](repeating: UInt8($0), count: 90_000) }
    for picture in pictures { try put(picture, into: &stage, pipe) }
    #expect(stage.waiting == 0)
    let isSame = pipe.readAll() == pictures.flatMap { $0 }
    #expect(isSame)
  }

  @Test("Much more than was staged before does not go where a reader has not read yet")
  func larger() throws {
    let pipe = try Pipe(8 << 20)
    var stage = QEMUStage(socketRoom: pipe.room)
    var sent: [UInt8] = []
    var step: UInt8 = 0
    while stage.waiting == 0 {
      step &+= 1
      let bytes = [UInt8](repeating: step, count: 4096)
      sent += bytes
      try put(bytes, into: &stage, pipe)
    }
    let large = [UInt8](repeating: 255, count: pipe.room + 200_000)
    sent += large
    try put(large, into: &stage, pipe)
    var received: [UInt8] = []
    while received.count < sent.count {
      let some = pipe.readAll()
      try #require(!some.isEmpty, "\(received.count) of \(sent.count) bytes")
      received += some
      _ = try stage.drain(pipe.sender.raw)
    }
    let isSame = received == sent
    #expect(isSame)
  }

  @Test("What a reader keeps up with is staged in the same memory again")
  func sameMemory() throws {
    let pipe = try Pipe(1 << 20)
    var stage = QEMUStage(socketRoom: pipe.room)
    var places: Set<UnsafeMutableRawPointer> = []
    for _ in 0..<5 {
      places.insert(try stage.reserve(50_000, for: pipe.sender.raw))
      _ = try stage.drain(pipe.sender.raw)
      _ = pipe.readAll()
    }
    #expect(places.count == 1)
  }

  @Test("Somebody who clears O_NONBLOCK of the socket does not have us wait for its reader")
  func blocking() throws {
    let pipe = try Pipe(1)
    var stage = QEMUStage(socketRoom: pipe.room)
    try put([UInt8](repeating: 1, count: 100_000), into: &stage, pipe)
    try UnixSocket.setNonblocking(pipe.sender.raw, false)
    _ = try stage.drain(pipe.sender.raw)
    #expect(stage.waiting > 0)
    var received = pipe.readAll()
    while stage.waiting > 0 {
      _ = try stage.drain(pipe.sender.raw)
      received += pipe.readAll()
    }
    let isSame = received == [UInt8](repeating: 1, count: 100_000)
    #expect(isSame)
  }

  /// Has the calling thread interrupted again and again, as a watchdog does.
  private func poked<R>(_ body: () throws -> R) throws -> R {
    #expect(ph_prepare_poke() == 0)
    let isOver = Locked(false)
    let own = ph_gettid()
    let poker = try Linux.Thread("poker") {
      while !isOver.withLock({ $0 }) {
        usleep(20_000)
        _ = ph_poke(own)
      }
    }
    let result = Result { try body() }
    isOver.withLock { $0 = true }
    _ = consume poker
    return try result.get()
  }

  @Test(
    "Somebody who clears it behind our look at it has us wait once", .timeLimit(.minutes(2)),
    arguments: [100_000, 3_000_000])
  func blockingBehindTheLook(_ count: Int) throws {
    let pipe = try Pipe(1)
    var stage = QEMUStage(socketRoom: pipe.room)
    let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }
    try UnixSocket.setNonblocking(pipe.sender.raw, false)
    let room = try stage.reserve(count, for: pipe.sender.raw)
    UnsafeMutableRawBufferPointer(start: room, count: count).copyBytes(from: bytes)
    _ = try poked { try stage.drain(pipe.sender.raw) { _ in true } }
    #expect(stage.hasWaited && stage.waiting > 0)
    // Nobody interrupts it any more.
    var received: [UInt8] = []
    while stage.waiting > 0 {
      received += pipe.readAll()
      _ = try stage.drain(pipe.sender.raw) { _ in true }
    }
    received += pipe.readAll()
    let isSame = received == bytes
    #expect(isSame)
    // The next socket is not trusted either.
    var next = QEMUStage(socketRoom: pipe.room, copies: stage.hasWaited)
    _ = try next.reserve(count, for: pipe.sender.raw)
    _ = try next.drain(pipe.sender.raw) { _ in true }
    #expect(next.waiting > 0 && !next.hasWaited)
  }

  @Test("A peer that is gone is an error, not a signal")
  func gone() throws {
    let pipe = try Pipe(1 << 20)
    var stage = QEMUStage(socketRoom: pipe.room)
    shutdown(pipe.reader.raw, CInt(SHUT_RDWR))
    #expect(throws: Errno.self) { try put([1, 2, 3], into: &stage, pipe) }
  }
}
