import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// Many consumers of one guest that flips, good ones and bad ones.
@Suite(.serialized, .enabled(if: access("/dev/udmabuf", R_OK | W_OK) == 0, "needs /dev/udmabuf"))
struct FenceStressTests {
  private static let size = 128

  /// Reads every frame to the last byte before it releases it.
  private final class Reader: Sendable {
    struct Seen {
      var numbers: [UInt32] = []
      var mixed = 0
      var memories: Set<String> = []
      var failure: String?
    }
    let seen = Locked(Seen())
    let isOver = Locked(false)

    /// Runs in a thread of its own.
    func follow(_ path: String, copyOnly: Bool) {
      do {
        let consumer = try FrameConsumer(
          path: path, options: .init(name: copyOnly ? "copies" : "quick", copyOnly: copyOnly))
        while !isOver.withLock({ $0 }) {
          guard let event = try consumer.next(timeout: 20), case .frame(let frame) = event else {
            continue
          }
          if let buffer = consumer.buffers[frame.buffer] {
            note(try buffer.pixels(of: frame.crop), "\(buffer.memory)")
          }
          try consumer.done(frame)
        }
      } catch { seen.withLock { $0.failure = "\(error)" } }
    }

    private func note(_ bytes: [UInt8], _ memory: String) {
      let words = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt32.self)) }
      seen.withLock {
        $0.memories.insert(memory)
        if let first = words.first {
          $0.numbers.append(first)
          if words.contains(where: { $0 != first }) { $0.mixed += 1 }
        }
      }
    }
  }

  private func draw(_ number: UInt32, to buffer: Framebuffer, _ driver: GPUDriver) {
    let pixels = [UInt32](repeating: number, count: Self.size * Self.size)
    pixels.withUnsafeBytes { driver.ram.write($0, to: buffer.pages) }
  }

  private func view(_ socket: String, to file: CInt) throws -> ChildProcess {
    try ChildProcess(
      [FakeGuest.Puncher.defaultProgram, "view", "--frames-socket", socket],
      fds: [(file, 1), (file, 2)])
  }

  @Test func badConsumersCostOneDeadlineEachAndGoodOnesSeeAll() throws {
    // Long enough for a slow machine's good consumers.
    let pinhole = try PinholeProcess(
      ["--scanout", "direct", "--hold-deadline", "1500"])
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let buffers = try (1...2).map {
      try Framebuffer(
        driver, resource: UInt32($0), width: Self.size, height: Self.size, kind: .blob,
        placement: .scattered(seed: UInt64($0)))
    }
    let socket = pinhole.framesSocket
    let readers = [Reader(), Reader()]
    let quick = try Thread("quick") { [reader = readers[0]] in
      reader.follow(socket, copyOnly: false)
    }
    let copies = try Thread("copies") { [reader = readers[1]] in
      reader.follow(socket, copyOnly: true)
    }
    let folder = try TemporaryDirectory()
    let out = try OwnedFD.open(folder.file("stopped"), O_WRONLY | O_CREAT | O_APPEND)
    let null = try OwnedFD.open("/dev/null", O_WRONLY)
    let stopped = try view(socket, to: out.raw)
    let killed = try view(socket, to: null.raw)
    var mute: FrameConsumer?

    let flips: UInt32 = 150
    for number in 1...flips {
      let buffer = buffers[Int(number % 2)]
      draw(number, to: buffer, driver)
      try buffer.show()
      for command in buffer.flushCommands(fence: UInt64(number)) { try driver.send(command) }
      if number == 40 { stopped.signal(SIGSTOP) }
      if number == 60 { killed.signal(SIGKILL) }
      if number == 80 { mute = try FrameConsumer(path: socket) }
      try driver.drain()
      usleep(16_000)
    }
    for reader in readers {
      try driver.wait(for: "the last frame at each reader", milliseconds: 20_000) {
        reader.seen.withLock { $0.numbers.last == flips || $0.failure != nil }
      }
      reader.isOver.withLock { $0 = true }
    }
    _ = consume quick
    _ = consume copies

    // It wakes up and sees what is on screen now.
    stopped.signal(SIGCONT)
    let deadline = Clock.now + 20_000_000_000
    func told() throws -> String {
      String(decoding: try WholeFile.read(folder.file("stopped")), as: UTF8.self)
    }
    while try !told().contains("skipped"), Clock.now < deadline { usleep(10_000) }
    #expect(try told().contains("skipped"))
    withExtendedLifetime(mute) {}

    for (reader, memory) in zip(readers, ["dmaBuf", "copy"]) {
      let seen = reader.seen.withLock { $0 }
      #expect(seen.failure == nil)
      #expect(seen.mixed == 0, "frames with pixels of two pictures")
      #expect(seen.numbers == seen.numbers.sorted(), "an old picture came after a new one")
      #expect(seen.numbers.count >= Int(flips) * 3 / 4, "\(seen.numbers.count) frames")
      #expect(seen.memories == [memory])
    }
    #expect(pinhole.terminate() == 0)
    let late = pinhole.log.split(separator: ",").first { $0.hasPrefix(" late ") }
    let count = late.flatMap { Int($0.dropFirst(6)) }
    #expect(count.map { $0 <= 3 } == true, "\(pinhole.log)")
  }

  @Test func directFramesCopyNoByte() throws {
    let pinhole = try PinholeProcess(["--scanout", "auto", "--hold-deadline", "5000"])
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: try GuestRAM(size: 16 << 20)))
    let buffers = try (1...2).map {
      try Framebuffer(
        driver, resource: UInt32($0), width: Self.size, height: Self.size, kind: .blob,
        placement: .scattered(seed: UInt64($0)))
    }
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    for number in 1...100 {
      let buffer = buffers[number % 2]
      draw(UInt32(number), to: buffer, driver)
      try buffer.show()
      for command in buffer.flushCommands(fence: UInt64(number)) { try driver.send(command) }
      try watcher.follow(driver)
    }
    #expect(watcher.memories == ["dmaBuf"])
    #expect(watcher.frames >= 100)
    #expect(pinhole.terminate() == 0)
    let log = pinhole.log
    #expect(log.contains(" copied-bytes 0,"), "\(log)")
  }
}
