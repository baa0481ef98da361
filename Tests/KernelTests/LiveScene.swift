import Buffers
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import Testing

/// A guest with a picture on screen before the daemon in a thread of this process, whose builds a
/// test may spoil.
final class LiveScene {
  /// Discards a page in the middle of each build while it is aimed at one.
  final class Spoiler: Sendable {
    private let target = Locked<(file: SharedFD, offset: UInt64)?>(nil)

    func aim(at file: SharedFD, _ offset: UInt64) { target.withLock { $0 = (file, offset) } }
    func rest() { target.withLock { $0 = nil } }

    func act(_ step: BufferStore.Step) {
      guard step == .verify, let (file, offset) = target.withLock({ $0 }) else { return }
      _ = try? MemFD.punchHole(file.raw, offset: offset, count: 4096)
    }
  }

  static let width = 320
  static let height = 200
  let pinhole: PinholeThread
  let driver: GPUDriver
  /// QEMU's side of the display socket.
  let display: FakeDisplay?
  let buffer: Framebuffer
  let spoiler = Spoiler()
  private let puncher: FakeGuest.Puncher
  private var fence: UInt64 = 0

  init(
    _ options: [String] = ["--scanout", "direct", "--hold-deadline", "10000"],
    kind: Framebuffer.Kind = .twoD
  ) throws {
    pinhole = try PinholeThread(options) { [spoiler] store in
      store.onStep = { spoiler.act($0) }
    }
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: try GuestRAM(size: 16 << 20))
    display = frontEnd.display
    driver = try GPUDriver(frontEnd)
    buffer = try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, kind: kind,
      placement: .scattered(seed: 5))
    puncher = try FakeGuest.Puncher(driver.ram.fd.raw)
    draw(0)
    try buffer.show()
    try buffer.flush()
  }

  func draw(_ frame: Int) {
    buffer.draw(TestPicture.pages.render(width: Self.width, height: Self.height, frame: frame))
  }

  /// Where a page of the picture lies in the guest's memfd.
  func offset(ofPage page: Int, of picture: Framebuffer? = nil) throws -> UInt64 {
    let pages = (picture ?? buffer).pages
    return try #require(driver.ram.fileOffset(ofGuest: pages.addresses[page]))
  }

  /// Discards a page and has the guest write into the new one.
  func discard(_ page: Int, byte: UInt8, of picture: Framebuffer? = nil) throws {
    try puncher.discard(offset: try offset(ofPage: page, of: picture), count: 4096)
    let bytes = [UInt8](repeating: byte, count: 4096)
    driver.ram.write(bytes, to: (picture ?? buffer).pages, at: page * 4096)
  }

  /// Discards a page, which the guest does not write to again: it is zero.
  func discard(_ page: Int) throws {
    try puncher.discard(offset: try offset(ofPage: page), count: 4096)
  }

  func flush(_ rect: Rect? = nil) throws { try buffer.flush(rect) }

  /// What the guest has drawn.
  var contents: [UInt8] { driver.ram.read(buffer.pages, count: Self.width * Self.height * 4) }

  func end() throws {
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    #expect(!pinhole.log.contains("error:"), "\(pinhole.log)")
  }
}

/// A consumer that writes down everything in its order, and what the newest frame shows.
final class Diary {
  let consumer: FrameConsumer
  private(set) var frames: [ReceivedFrame] = []
  private(set) var removals: [(name: PinholeFrames.BufferName, reason: RemovalReason)] = []
  /// Frames that were the first of their buffer and did not bring all of it.
  private(set) var partialFirsts: [ReceivedFrame] = []
  /// Generations that came while an older one of the same buffer was not taken back.
  private(set) var additionsTooEarly: [PinholeFrames.BufferName] = []
  private var seen: Set<PinholeFrames.BufferName> = []

  init(_ path: String, _ options: FrameConsumer.Options = .init(name: "diary")) throws {
    consumer = try FrameConsumer(path: path, options: options)
  }

  /// Reads on until a condition holds; releases every frame unless told otherwise.
  func read(
    for what: Comment, releases: Bool = true, milliseconds: Int = 20_000,
    _ done: (Diary) throws -> Bool
  ) throws {
    let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
    while try !done(self) {
      guard let event = try consumer.next(timeout: 20) else {
        try #require(Clock.now < deadline, what)
        continue
      }
      try take(event, releases)
    }
  }

  /// Reads what there is.
  func catchUp(releases: Bool = true, milliseconds: CInt = 0) throws {
    while let event = try consumer.next(timeout: milliseconds) { try take(event, releases) }
  }

  private func take(_ event: FrameConsumer.Event, _ releases: Bool) throws {
    switch event {
    case .bufferAdded(let buffer):
      let older = consumer.buffers.keys.contains {
        $0.number == buffer.name.number && $0.generation < buffer.name.generation
      }
      if older { additionsTooEarly.append(buffer.name) }
    case .frame(let frame):
      let all = Rect(x: 0, y: 0, width: frame.crop.width, height: frame.crop.height)
      if seen.insert(frame.buffer).inserted, !frame.isFull, !frame.damage.contains(all) {
        partialFirsts.append(frame)
      }
      frames.append(frame)
      if releases { try consumer.done(frame) }
    case .bufferRemoved(let name, let reason): removals.append((name, reason))
    default: break
    }
  }

  /// What memory the newest frame is in.
  var memory: ReceivedBuffer.Memory? {
    frames.last.flatMap { consumer.buffers[$0.buffer]?.memory }
  }

  /// The bytes of the newest frame; nil if its buffer was taken back meanwhile.
  func bytes() throws -> [UInt8]? {
    guard let frame = frames.last, let buffer = consumer.buffers[frame.buffer] else { return nil }
    if buffer.memory == .copy || hasUdmabuf { return try buffer.pixels(of: frame.crop) }
    let count = Int(frame.crop.width) * Int(frame.crop.height) * 4
    return try shownBytes(buffer.descriptor, count: count)
  }
}
