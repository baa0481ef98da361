import Buffers
import Command
import Fences
import FrameServer
import Glibc
import GuestMemory
import Linux
import Logging
import Monitoring
import QEMUDisplay
import Rendering
import Sandbox
import Scene
import VhostUser
import VirtioGPU

/// Puts the rooms together and runs the event loop until a signal or the front-end ends it.
package final class Daemon {
  private let options: DaemonOptions
  private let lines: Locked<LineLimit>
  private let log = Logger(label: "pinhole")
  private let loop: EventLoop
  private let signals: OwnedFD
  private let udmabuf: Result<UdmabufDevice, CopyReason>
  private let keeper: WitnessKeeper?
  package let store: BufferStore
  private let device: GPUDevice
  private let qemu: QEMUDisplay
  private let server: VhostUserServer
  private var frames: FrameServer?
  private var renderer: RendererHost?
  private var watchdog: Watchdog?
  private var failure: Failure?
  private var control: ControlSocket?
  private let activation: Activation
  private let started = Clock.now

  /// Opens what a cgroup or sandbox may deny later, first.
  ///
  /// - Parameters:
  ///   - lines: what bounds the log.
  ///   - udmabuf: makes the buffers over guest pages; nil opens /dev/udmabuf.
  /// - Throws: ``Command/Failure``.
  package init(
    _ options: DaemonOptions, _ lines: Locked<LineLimit>,
    udmabuf: Result<UdmabufDevice, CopyReason>? = nil
  ) throws {
    self.options = options
    self.lines = lines
    activation = try Activation.take()
    // Before any thread starts, so that all inherit the mask.
    signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT, SIGUSR1])
    }
    Precautions.take()
    try explain("cannot guard guest memory") { () throws(Errno) in try MemoryGuard.prepare() }
    self.udmabuf = udmabuf ?? Result { () throws(CopyReason) in try UdmabufDevice.open() }
    let witness = try Self.witness(options.detector)
    keeper = try? witness.get()
    let log = self.log
    do throws(Errno) {
      let loop = try EventLoop()
      self.loop = loop
      let memory = GuestMemory()
      memory.fileArrived = { file in
        log.info("guest memory: \(file.size >> 20) MiB in \(file.summary)")
      }
      store = BufferStore(device: self.udmabuf, keeper: witness, log: log)
      store.leftovers = Leftovers(try? DmaBufHolders(), on: loop, log: log)
      store.onDiscard = options.onDiscard
      store.pinBudget = options.maxPinned
      device = GPUDevice(
        options.device, memory: memory, store: store,
        holds: HoldQueue(on: loop, deadline: options.holdDeadline), on: loop, log: log)
      qemu = QEMUDisplay(
        device.scene, on: loop, log: log, way: options.qemuDisplay ?? .pixels,
        leaveDeadline: options.holdDeadline)
      server = VhostUserServer(device: device, memory: memory, loop: loop, logger: log)
    } catch { throw Failure("cannot start the event loop: \(error)") }
  }

  /// Serves until the end.
  ///
  /// - Throws: ``Command/Failure``.
  package func run() throws {
    device.displays = qemu
    server.displaySocketArrived = { [unowned self] in qemu.attach($0) }
    device.frontEndLeft = { [unowned self] in qemu.frontEndLeft() }
    if options.qemuDisplay != nil { device.scene.add(qemu) }
    startRenderer()
    try startFrames()
    defer { stop() }
    try watchSignals()
    try startServing()
    if let path = options.control {
      control = try ControlSocket(path, loop: loop) { [unowned self] in state.json.text }
    }
    let greeting = greeting()
    let confinement = try enterSandbox(
      options.sandbox,
      sockets: [options.socketPath, options.framesSocket, options.control].compactMap { $0 },
      keeper: keeper
    ) { () throws(Failure) in
      watchdog = try Precautions.startThreads(over: loop, watchdog: options.watchdog, log)
    }
    log.info("\(greeting); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    LogLines.makeRoom(lines)
    log.info("\(summary())")
    if let failure { throw failure }
  }

  private static func witness(
    _ choice: Detector?
  ) throws -> Result<WitnessKeeper, WitnessError> {
    let witness = Result { () throws(WitnessError) in
      try WitnessKeeper(
        detector: choice, device: try? WitnessKeeper.openDevice(), startsListener: false)
    }
    if let choice, case .failure(let error) = witness {
      throw Failure("--detector \(choice.rawValue): \(error); without it the best is chosen")
    }
    return witness
  }

  /// Offers 3D where it works; a guest without it has its screen all the same.
  private func startRenderer() {
    guard var rendering = options.rendering else { return }
    let consumers = options.framesSocket != nil || activation.frames != nil
    let mayImport = consumers || options.qemuDisplay == .dmabuf
    rendering.exports = mayImport && options.device.mode != .copy
    do throws(RendererHost.Failure) {
      let made = try rendering.start(sandbox: options.sandbox.rawValue, on: loop, log: log)
      if !made.isRecent {
        log.warning(
          """
          this libvirglrenderer is older than 1.1.0 and lacks fixes of memory errors that guests \
          can cause in the renderer: Debian 13 has a newer one
          """)
      }
      renderer = made
      device.renderer = made
    } catch { log.warning("no 3D, guests draw for themselves: \(error)") }
  }

  private func startFrames() throws {
    guard options.framesSocket != nil || activation.frames != nil else { return }
    var settings = FrameServer.Options()
    settings.maxConsumers = options.maxConsumers
    settings.holdDeadline = options.holdDeadline
    settings.closeDeadline = settings.holdDeadline
    let frames = FrameServer(device.scene, loop: loop, options: settings, log: log)
    do throws(ListenError) {
      if let path = options.framesSocket {
        try frames.listen(path, access: options.framesAccess)
      }
      if let socket = activation.frames { try frames.listen(on: socket) }
    } catch { throw Failure("--frames-socket: \(error)") }
    device.scene.add(frames)
    self.frames = frames
  }

  private func startServing() throws {
    if options.once {
      server.sessionEnded = { [unowned self] reason in
        if reason != .frontEndClosed { failure = Failure("\(reason)") }
        loop.stop()
      }
    }
    if let socket = activation.frontEnd {
      guard options.socketPath == nil, options.fd == nil else {
        throw Failure(
          "--socket-path and --fd exclude a socket that systemd hands over; leave them out")
      }
      do throws(ListenError) { return try server.listen(on: socket) } catch {
        throw Failure("LISTEN_FDS: \(error)")
      }
    }
    if let path = options.socketPath {
      do throws(ListenError) { try server.listen(on: path) } catch {
        throw Failure("--socket-path: \(error)")
      }
      return
    }
    guard let fd = options.fd else {
      throw Failure(
        "LISTEN_FDS: there is no stream socket for the front-end; add ListenStream= to the unit")
    }
    guard UnixSocket.isSocket(fd, kind: .stream) else {
      throw Failure(
        "--fd \(fd) is not a connected Unix stream socket; hand one over, or give --socket-path")
    }
    server.sessionEnded = { [unowned self] reason in
      if reason != .frontEndClosed { failure = Failure("\(reason)") }
      loop.stop()
    }
    try explain("cannot serve --fd \(fd)") { () throws(Errno) in
      // The front-end is at the other end: what it sends is closed elsewhere, as with --socket-path.
      try server.serve(OwnedFD(adopting: fd, from: .connection()))
    }
  }

  private func watchSignals() throws {
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals) { [unowned self] number in
        guard number == SIGUSR1 else { return false }
        report()
        return true
      }
    }
  }

  private func stop() {
    control = nil
    server.stop()
    frames?.close()
  }

  private func greeting() -> String {
    let place = options.socketPath.map { "on \($0)" } ?? "the socket that was handed in"
    return "pinhole \(pinholeVersion) serves \(place); \(abilities)"
  }

  /// What a guest in a sealed memfd would get, and what stands in the way.
  private var abilities: String { renderer == nil ? pages : "3D by virgl on \(way); \(pages)" }

  private var way: String { renderer?.node ?? "the processor" }

  private var pages: String {
    if case .failure(let reason) = udmabuf {
      return "pictures are copied: " + (DeviceAccess.explanation(of: reason) ?? "\(reason)")
    }
    guard let detector = store.detector else { return "pictures are copied: no witness" }
    if store.onDiscard == .ignore { return "UNSAFE: discarded pages stay on the screen" }
    let repair = store.onDiscard == .report ? ", only reported" : ""
    let gate = store.hasGate ? " behind the file's times" : ""
    return "zero-copy through udmabuf, discards found by \(detector)\(gate)\(repair)"
  }

  private func report() {
    LogLines.makeRoom(lines)
    log.notice("\(summary())")
  }

  private func summary() -> String {
    "counters: " + state.line
  }

  /// What `pinhole status` and the log are told.
  private var state: State {
    let now = Clock.now
    var state = State(
      version: pinholeFullVersion, seconds: (now &- started) / 1_000_000_000,
      hasFrontEnd: server.session != nil, metrics: device.metrics)
    state.metrics += store.metrics + device.holds.metrics
    if let keeper { state.metrics += keeper.metrics }
    if let frames { state.metrics += frames.metrics }
    if options.qemuDisplay != nil { state.metrics += qemu.metrics }
    if let renderer {
      state.metrics.append(
        Metric("renderer-deaths", renderer.deaths, "renderers that ended, with the guest's 3D"))
    }
    state.metrics += store.reasons
    state.durations = device.durations + store.durations
    state.outputs = device.scene.state(at: now)
    state.buffers = store.state
    state.consumers = frames?.state ?? []
    return state
  }
}
