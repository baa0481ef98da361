import Buffers
import FakeGuest
import Fences
import GuestMemory
import Linux
import Logging
import VhostUser

@testable import VirtioGPU

/// The real device behind a real vhost-user session in a thread of its own, and a fake guest.
final class DeviceBench {
  let driver: GPUDriver
  let front: VhostUserFrontend
  let seen: Recorder.Log
  private let jobs: Jobs
  private let thread: Thread

  /// Work for the device's thread.
  final class Jobs: Sendable {
    typealias Job = @Sendable (GPUDevice, Recorder) -> Void
    private let queue = Locked<[Job]>([])
    let bell: SharedFD
    init() throws { bell = SharedFD(try EventFD().intoFD()) }
    func add(_ job: @escaping Job) {
      queue.withLock { $0.append(job) }
      EventFD.ring(bell)
    }
    func take() -> [Job] {
      queue.withLock { jobs in
        defer { jobs = [] }; return jobs
      }
    }
  }

  init(
    mode: ScanoutMode = .auto, configure: @Sendable (inout GPUConfiguration) -> Void = { _ in },
    display: Bool = false, ram: GuestRAM? = nil,
    holdDeadline: UInt64 = HoldQueue.defaultDeadline
  ) throws {
    let jobs = try Jobs()
    let seen = Recorder.Log()
    self.jobs = jobs
    self.seen = seen
    var configuration = GPUConfiguration()
    configuration.mode = mode
    configure(&configuration)
    let chosen = configuration
    var pair = Optional(try UnixSocket.Pair(.stream))
    var ends: (OwnedFDBox, OwnedFDBox)?
    pair.take()?.split { ends = (OwnedFDBox($0), OwnedFDBox($1)) }
    guard let (ours, theirs) = ends else { throw Errno(24, "socketpair") }
    thread = try Self.start(theirs, chosen, holdDeadline, jobs, seen)
    var options = VhostUserFrontend.Options()
    options.display = display
    let ram = try ram ?? GuestRAM(size: 64 << 20)
    front = try VhostUserFrontend(try ours.take(), ram: ram, options)
    driver = try GPUDriver(front)
  }

  deinit { jobs.add { _, recorder in recorder.loop?.stop() } }

  /// Runs something in the device's thread and waits for its result.
  func inDevice<R: Sendable>(_ body: @escaping @Sendable (GPUDevice, Recorder) -> R) throws -> R {
    let result = Locked<R?>(nil)
    let done = SharedFD(try EventFD().intoFD())
    jobs.add { device, recorder in
      let value = body(device, recorder)
      result.withLock { $0 = value }
      EventFD.ring(done)
    }
    try EventFD.wait(done)
    guard let value = result.withLock({ $0 }) else { throw Errno(110, "inDevice") }
    return value
  }

  private static func start(
    _ socket: OwnedFDBox, _ configuration: GPUConfiguration, _ holdDeadline: UInt64,
    _ jobs: Jobs, _ seen: Recorder.Log
  ) throws(Errno) -> Thread {
    try Thread("device") { serve(socket, configuration, holdDeadline, jobs, seen) }
  }

  private static func serve(
    _ socket: OwnedFDBox, _ configuration: GPUConfiguration, _ holdDeadline: UInt64,
    _ jobs: Jobs, _ seen: Recorder.Log
  ) {
    do {
      var log = Logger(label: "test")
      log.logLevel = .critical
      let loop = try EventLoop()
      let memory = GuestMemory()
      let store = BufferStore(
        device: .failure(.noDevice), keeper: .failure(.noUserfaultfd(Errno(38, "userfaultfd"))),
        log: log)
      let device = try GPUDevice(
        configuration, memory: memory, store: store,
        holds: try HoldQueue(on: loop, deadline: holdDeadline), on: loop, log: log)
      let recorder = Recorder(seen, loop)
      device.add(recorder)
      let server = VhostUserServer(device: device, memory: memory, loop: loop, logger: log)
      server.sessionEnded = { reason in seen.log.withLock { $0.ended = "\(reason)" } }
      try server.serve(try socket.take())
      let bell = try loop.watch(jobs.bell.raw, for: .readable) { _ in
        EventFD.drain(jobs.bell)
        for job in jobs.take() { job(device, recorder) }
      }
      try loop.run()
      server.stop()
      // The loop would keep the device, whose timers keep the loop.
      loop.unwatch(bell)
    } catch { seen.log.withLock { $0.failure = "\(error)" } }
  }
}

/// A display that remembers what it was shown, and can hold frames.
final class Recorder: DisplaySink {
  struct Shown: Sendable {
    let output: Int
    let picture: Raster
    let damage: Buffers.Rect
    let crop: Buffers.Rect
    let memory: String
    let buffer: UInt32
    var why: WhyCopied?
  }

  struct Events: Sendable {
    var frames: [Shown] = []
    var sizes: [String] = []
    var withdrawn: [WithdrawReason] = []
    var cursors: [(x: Int32, y: Int32, hotX: UInt32, pixels: [UInt8]?, changed: Bool)] = []
    var failure: String?
    /// Why the front-end's connection ended.
    var ended: String?
  }

  final class Log: Sendable {
    let log = Locked(Events())
    var frames: [Shown] { log.withLock { $0.frames } }
    var last: Shown? { log.withLock { $0.frames.last } }
  }

  weak var loop: EventLoop?
  var wantsBuffers = false
  var holds = false
  /// Looks at every pixel, and forgets what it saw.
  var isForgetful = false
  private var held: [(Hold?, OfferedBuffer?)] = []
  private let seen: Log

  init(_ seen: Log, _ loop: EventLoop?) {
    self.seen = seen
    self.loop = loop
  }

  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    let text = size.map { "\($0.width)x\($0.height)" } ?? "off"
    seen.log.withLock { $0.sizes.append("\(index) \(text)") }
  }

  func present(_ frame: Frame) {
    let crop = frame.crop
    var pixels = [UInt32](repeating: 0, count: Int(crop.width) * Int(crop.height))
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      frame.pixels.copy(crop, to: base, stride: Int(crop.width) * 4)
    }
    if isForgetful { return }
    let shown = Shown(
      output: frame.output,
      picture: Raster(width: Int(crop.width), height: Int(crop.height), pixels: pixels),
      damage: frame.damage, crop: crop, memory: frame.buffer.map { "\($0.memory)" } ?? "none",
      buffer: frame.buffer?.id ?? 0, why: frame.whyCopied)
    if holds {
      frame.hold?.retain()
      frame.buffer?.beginUse()
      held.append((frame.hold, frame.buffer))
    }
    seen.log.withLock { $0.frames.append(shown) }
  }

  func releaseAll() {
    let all = held
    held = []
    for (hold, buffer) in all {
      buffer?.endUse()
      hold?.release()
    }
  }

  func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) {
    seen.log.withLock { $0.withdrawn.append(reason) }
    released()
  }

  func cursor(_ state: CursorState, imageChanged: Bool) {
    seen.log.withLock {
      $0.cursors.append((state.x, state.y, state.hotX, state.image?.pixels, imageChanged))
    }
  }
}

/// Carries a descriptor into another thread.
final class OwnedFDBox: @unchecked Sendable {
  private var fd: OwnedFD?
  init(_ fd: consuming OwnedFD) { self.fd = consume fd }
  func take() throws -> OwnedFD {
    guard let taken = fd.take() else { throw Errno(9, "take") }
    return taken
  }
}

extension EventFD {
  consuming func intoFD() throws -> OwnedFD { try fd.duplicate() }
  static func ring(_ fd: SharedFD) {
    var one: UInt64 = 1
    _ = try? UnsafeRawBytes.write(fd.raw, &one)
  }
  static func drain(_ fd: SharedFD) { _ = try? UnsafeRawBytes.read(fd.raw) }
  static func wait(_ fd: SharedFD) throws {
    guard try UnsafeRawBytes.poll(fd.raw, milliseconds: 10_000) else {
      throw Errno(110, "device thread")
    }
  }
}

extension GPUCommand {
  /// A header alone, of any type.
  init(name: String, type: UInt32) {
    self.init(raw: [UInt8](repeating: 0, count: 24), name: name)
    put(type, at: 0)
  }
}
