import Buffers
import CLinux
import FakeGuest
import Fences
import Glibc
import Linux
import Logging
import Pixels
import Scene
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: pictures that stay as they are")
struct QEMUStillTests {
  private static let width: UInt32 = 1024
  private static let height: UInt32 = 512
  private static let size = Int(width) * Int(height) * 4

  /// An outbox, and its reader.
  private final class Pipe {
    let outbox: QEMUOutbox
    let reader: SharedFD
    private(set) var received: [UInt8] = []

    init(sendBuffer: CInt) throws {
      ph_ignore_sigpipe()
      var ends: (SharedFD?, SharedFD?) = (nil, nil)
      try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
      let sender = try #require(ends.0)
      reader = try #require(ends.1)
      try UnixSocket.setNonblocking(sender.raw, true)
      outbox = QEMUOutbox(try sender.duplicate(), sendBuffer: sendBuffer)
    }

    /// Reads what is there, at most so many bytes.
    func read(_ most: Int = .max) {
      var left = most
      while left > 0 {
        let some = [UInt8](unsafeUninitializedCapacity: min(left, 1 << 16)) { buffer, count in
          count = max(0, recv(reader.raw, buffer.baseAddress, buffer.count, CInt(MSG_DONTWAIT)))
        }
        if some.isEmpty { return }
        received += some
        left -= some.count
      }
    }

    /// Sends and reads until there is nothing more.
    func finish() {
      var before = -1
      while received.count != before {
        before = received.count
        outbox.drain()
        read()
      }
    }

    func add(_ bytes: [UInt8]) {
      bytes.withUnsafeBytes {
        if let base = $0.baseAddress { outbox.add(base, $0.count) }
        outbox.flush()
      }
    }
  }

  private func picture(_ value: UInt8) throws -> StillPicture {
    let file = SharedFD(try MemFD.create("picture", size: Self.size))
    let mapping = try Mapping(fd: file.raw, offset: 0, count: Self.size, writable: true)
    let still = StillPicture(file, mapping, stride: Self.width * 4)
    memset(still.base, CInt(value), Self.size)
    still.isStill = true
    return still
  }

  private func run(_ value: UInt8, _ count: Int = size) -> [UInt8] {
    [UInt8](repeating: value, count: count)
  }

  @Test(
    "It comes behind the message's header and before the next message, with nothing copied",
    arguments: [CInt(1), 200_000, 8 << 20])
  func order(sendBuffer: CInt) throws {
    let pipe = try Pipe(sendBuffer: sendBuffer)
    let still = try picture(7)
    // More than the socket takes: the header itself has to wait.
    let before = run(1, 300_000)
    pipe.add(before)
    let copied = pipe.outbox.bytesCopied
    pipe.add(run(2, 40))
    #expect(pipe.outbox.add(still, from: 4096, Self.size - 4096))
    pipe.outbox.flush()
    if sendBuffer < 1 << 20 { #expect(!pipe.outbox.isIdle) }
    let own = pipe.outbox.bytesCopied - copied
    pipe.add(run(3, 20))
    #expect(still.isRead)
    #expect(own <= 40)
    pipe.finish()
    #expect(pipe.outbox.isIdle)
    let isRight =
      pipe.received == before + run(2, 40) + run(7, Self.size - 4096) + run(3, 20)
    #expect(isRight)
    pipe.outbox.review()
    #expect(!still.isRead)
    #expect(pipe.outbox.bytesSent == UInt64(pipe.received.count))
  }

  @Test("It is locked until the last byte was read, also when the socket has taken all")
  func locked() throws {
    let pipe = try Pipe(sendBuffer: 8 << 20)
    let still = try picture(7)
    #expect(pipe.outbox.add(still, from: 0, Self.size))
    pipe.outbox.flush()
    try #require(pipe.outbox.isIdle, "net.core.wmem_max is too small for this test")
    for _ in 0..<3 {
      pipe.read(Self.size / 4)
      pipe.outbox.review()
      #expect(still.isRead)
    }
    pipe.read()
    pipe.outbox.review()
    #expect(!still.isRead)
  }

  @Test("A second one while the first one is on its way is for others to copy")
  func second() throws {
    let pipe = try Pipe(sendBuffer: 1)
    let (first, second) = (try picture(1), try picture(2))
    #expect(pipe.outbox.add(first, from: 0, Self.size))
    pipe.outbox.flush()
    #expect(!pipe.outbox.add(second, from: 0, Self.size))
    #expect(!second.isRead)
    pipe.finish()
    let isRight = pipe.received == run(1)
    #expect(isRight)
  }

  @Test("One that is written after all, or is too short, is not taken")
  func refused() throws {
    let pipe = try Pipe(sendBuffer: 1)
    let still = try picture(1)
    #expect(!pipe.outbox.add(still, from: 4096, Self.size))
    #expect(!pipe.outbox.add(still, from: -1, 8))
    still.isStill = false
    #expect(!pipe.outbox.add(still, from: 0, Self.size))
    #expect(!still.isRead)
  }

  @Test("Somebody who clears O_NONBLOCK of the socket does not have us wait for its reader")
  func blocking() throws {
    let pipe = try Pipe(sendBuffer: 1)
    let still = try picture(5)
    #expect(pipe.outbox.add(still, from: 0, Self.size))
    pipe.outbox.flush()
    try UnixSocket.setNonblocking(pipe.outbox.fd, false)
    pipe.outbox.drain()
    #expect(!pipe.outbox.isIdle)
    pipe.finish()
    let isRight = pipe.received == run(5)
    #expect(isRight)
    pipe.outbox.review()
    #expect(!still.isRead)
  }

  @Test(
    "A connection that ends with it unread leaves it as it is for good", arguments: [true, false])
  func ends(isUnread: Bool) throws {
    let still = try picture(5)
    do {
      let pipe = try Pipe(sendBuffer: 8 << 20)
      #expect(pipe.outbox.add(still, from: 0, Self.size))
      pipe.outbox.flush()
      if !isUnread { pipe.finish() }
      pipe.outbox.letGo()
      #expect(pipe.outbox.isIdle)
    }
    #expect(still.isForsaken == isUnread)
    #expect(still.isRead == isUnread)
    #expect(still.hold.readers == 0)
  }

  @Test("A peer that is gone ends the connection, and nothing stays locked")
  func gone() throws {
    let pipe = try Pipe(sendBuffer: 1)
    let still = try picture(5)
    #expect(pipe.outbox.add(still, from: 0, Self.size))
    pipe.outbox.flush()
    shutdown(pipe.reader.raw, CInt(SHUT_RDWR))
    pipe.outbox.drain()
    #expect(pipe.outbox.failure?.code == EPIPE)
    #expect(still.hold.readers == 0)
  }

  /// What of a picture goes by reference.
  @Test(
    "Whole rows that need no conversion go by reference, all else is copied",
    arguments: [
      (Rect(width: width, height: height), FourCC.xrgb8888, true),
      (Rect(x: 0, y: 100, width: width, height: 300), .argb8888, true),
      (Rect(x: 0, y: 0, width: width - 1, height: height), .xrgb8888, false),
      (Rect(x: 0, y: 0, width: width, height: 100), .xrgb8888, false),
      (Rect(width: width, height: height), .xbgr8888, false),
    ])
  func rows(rect: Rect, fourcc: FourCC, isReferred: Bool) throws {
    let pipe = try Pipe(sendBuffer: 8 << 20)
    let still = try picture(9)
    for row in 0..<Int(Self.height) {
      memset(still.base + row * Int(Self.width) * 4, CInt(row & 0xff), Int(Self.width) * 4)
    }
    let layout = PixelLayout(
      width: Self.width, height: Self.height, stride: Self.width * 4, fourcc: fourcc)
    let source = try #require(
      PixelSource(layout: layout, spans: [HostSpan(base: still.base, count: Self.size)]))
    #expect(QEMUPixels.send(rect, of: source, still: still, into: pipe.outbox))
    #expect(still.isRead == isReferred)
    pipe.finish()
    let colours = stride(from: 0, to: pipe.received.count, by: Int(rect.width) * 4).map {
      pipe.received[$0]
    }
    #expect(colours == (rect.y..<rect.y + rect.height).map { UInt8($0 & 0xff) })
    #expect(pipe.received.count == Int(rect.width) * Int(rect.height) * 4)
  }

  @Test("A display unlocks what QEMU has read when it is asked")
  func display() throws {
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
    let (ours, theirs) = (try #require(ends.0), try #require(ends.1))
    let loop = try EventLoop()
    let scene = Scene()
    var log = Logger(label: "test")
    log.logLevel = .critical
    let display = QEMUDisplay(scene, on: loop, log: log)
    scene.add(display)
    display.attach(try ours.duplicate())
    let qemu = FakeQEMU(try theirs.duplicate())
    let still = try picture(9)
    let layout = PixelLayout(
      width: Self.width, height: Self.height, stride: Self.width * 4, fourcc: .xrgb8888)
    let source = try #require(
      PixelSource(layout: layout, spans: [HostSpan(base: still.base, count: Self.size)]))
    let whole = Rect(width: Self.width, height: Self.height)
    scene.resize(0, to: (Self.width, Self.height))
    scene.commit(
      Commit(
        output: 0, crop: whole, damage: whole, pixels: source, still: still, buffer: nil, lock: nil)
    )
    scene.publish()
    #expect(still.isRead)
    scene.reviewLocks()
    #expect(still.isRead)
    for _ in 0..<100 {
      qemu.serve()
      try loop.turn(timeout: 0)
    }
    scene.reviewLocks()
    #expect(!still.isRead)
    #expect(display.counters.updates == 1)
    #expect(display.counters.bytesCopied < 1000)
    // The same memory from elsewhere: nothing says that it stays as it is.
    scene.repoint(0, to: source, owner: still)
    #expect(scene.commit(of: 0)?.still == nil)
  }
}
