import Buffers
import FakeGuest
import Fences
import Glibc
import GuestMemory
import Linux
import Logging
import Pixels
import Scene
import VhostUser

@testable import VirtioGPU

/// The real device behind a real vhost-user session in a thread of its own, and a fake guest.
final class DeviceBench {
  let driver: GPUDriver
  let front: VhostUserFrontEnd
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
    holdDeadline: UInt64 = HoldQueue.defaultDeadline, with3D: Bool = false,
    udmabuf: Bool = false
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
    thread = try Self.start(theirs, chosen, holdDeadline, with3D, udmabuf, jobs, seen)
    var options = VhostUserFrontEnd.Options()
    options.display = display
    let ram = try ram ?? GuestRAM(size: 64 << 20)
    front = try VhostUserFrontEnd(try ours.take(), ram: ram, options)
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
    _ with3D: Bool, _ udmabuf: Bool, _ jobs: Jobs, _ seen: Recorder.Log
  ) throws(Errno) -> Thread {
    try Thread("device") { serve(socket, configuration, holdDeadline, with3D, udmabuf, jobs, seen) }
  }

  /// Memory itself in the place of the dma-buf that udmabuf would make of it.
  private static func standIn() throws(Errno) -> UdmabufDevice {
    let device = UdmabufDevice(adopting: try OwnedFD.open("/dev/null", O_RDWR), limits: .usual)
    device.substitute = { ranges throws(Errno) in
      guard let first = ranges.first else { throw Errno(EINVAL, "no ranges") }
      return try OwnedFD.duplicate(of: first.file.fd.raw)
    }
    return device
  }

  private static func serve(
    _ socket: OwnedFDBox, _ configuration: GPUConfiguration, _ holdDeadline: UInt64,
    _ with3D: Bool, _ udmabuf: Bool, _ jobs: Jobs, _ seen: Recorder.Log
  ) {
    do {
      var log = Logger(label: "test")
      log.logLevel = .critical
      let loop = try EventLoop()
      let memory = GuestMemory()
      let store = BufferStore(
        device: udmabuf ? .success(try standIn()) : .failure(.noDevice),
        keeper: .failure(.noUserfaultfd(Errno(38, "userfaultfd"))), log: log)
      let device = GPUDevice(
        configuration, memory: memory, store: store,
        holds: HoldQueue(on: loop, deadline: holdDeadline), on: loop, log: log)
      if with3D { device.renderer = ScriptedRenderer() }
      let recorder = Recorder(seen, loop, device.scene)
      device.scene.add(recorder)
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
final class Recorder: Sink {
  struct Shown: Sendable {
    let output: Int
    let picture: Raster
    let damage: Rect
    let crop: Rect
    let memory: String
    let buffer: UInt32
    var why: WhyCopied?
  }

  struct Cursor: Sendable {
    let x: Int32
    let y: Int32
    let hotX: UInt32
    let hotY: UInt32
    let pixels: [UInt8]?
    let serial: UInt64?
    let changed: Bool
  }

  struct Events: Sendable {
    var frames: [Shown] = []
    var sizes: [String] = []
    var revoked: [RevocationReason] = []
    var cursors: [Cursor] = []
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
  /// Locks of which it was told that nobody waits for them any more.
  private(set) var expiredHolds = 0
  private var held: [Hold] = []
  private var missed: OutputSet = []
  private var serials: [Int: UInt64] = [:]
  private let seen: Log
  private unowned let scene: Scene

  init(_ seen: Log, _ loop: EventLoop?, _ scene: Scene) {
    self.seen = seen
    self.loop = loop
    self.scene = scene
  }

  var lateOutputs: OutputSet { held.isEmpty ? missed : [] }

  func pull(_ changed: OutputSet) {
    for output in 0..<Scene.outputCount where changed.contains(OutputSet(output)) {
      let news = scene.news(of: output)
      if news.isResized {
        let text = scene.size(output).map { "\($0.width)x\($0.height)" } ?? "off"
        seen.log.withLock { $0.sizes.append("\(output) \(text)") }
      }
      if news.hasPicture { look(at: output, news.damage) }
      if news.hasCursor, let cursor = scene.cursor(output) { note(cursor) }
    }
  }

  /// Looks at what is on screen, whether or not it has changed.
  func lookAgain() {
    for output in 0..<Scene.outputCount {
      guard let size = scene.size(output) else { continue }
      look(at: output, Rect(x: 0, y: 0, width: size.width, height: size.height))
    }
  }

  func pullLate() {
    guard held.isEmpty else { return }
    let late = missed
    missed = []
    for output in 0..<Scene.outputCount where late.contains(OutputSet(output)) {
      guard let size = scene.size(output) else { continue }
      look(at: output, Rect(x: 0, y: 0, width: size.width, height: size.height))
    }
  }

  private func look(at output: Int, _ damage: Rect) {
    guard let (source, crop) = scene.pixels(output) else { return }
    var pixels = [UInt32](repeating: 0, count: Int(crop.width) * Int(crop.height))
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      source.copy(crop, to: base, stride: Int(crop.width) * 4)
    }
    if isForgetful { return }
    let frame = wantsBuffers ? scene.frame(output, Wishes()) : nil
    if wantsBuffers, frame == nil { missed.insert(OutputSet(output)) }
    let shown = Shown(
      output: output,
      picture: Raster(width: Int(crop.width), height: Int(crop.height), pixels: pixels),
      damage: damage, crop: crop, memory: frame.map { "\($0.buffer.memory)" } ?? "none",
      buffer: frame?.buffer.id ?? 0, why: frame?.whyCopied)
    if let lock = frame?.lock {
      // A reader of copies keeps the fence, too, so that tests without udmabuf can.
      if holds { held.append(lock) } else { lock.release() }
    }
    if holds, let fence = scene.commit(of: output)?.lock, fence !== frame?.lock {
      fence.retain()
      held.append(fence)
    }
    seen.log.withLock { $0.frames.append(shown) }
  }

  func releaseAll() {
    let all = held
    held = []
    for lock in all { lock.release() }
  }

  func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {
    seen.log.withLock { $0.revoked.append(reason) }
  }

  private func note(_ state: CursorState) {
    let isNew = serials[state.output] != state.image?.serial
    serials[state.output] = state.image?.serial
    seen.log.withLock {
      $0.cursors.append(
        Cursor(
          x: state.x, y: state.y, hotX: state.hotX, hotY: state.hotY,
          pixels: state.image?.pixels, serial: state.image?.serial, changed: isNew))
    }
  }

  func expired(_ lock: Hold) { expiredHolds += 1 }
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
