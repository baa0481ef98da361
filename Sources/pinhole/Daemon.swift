import Buffers
import Display
import Fences
import Glibc
import GuestMemory
import Linux
import Logging
import Sandbox
import VhostUser
import VirtioGPU

/// Puts the rooms together and runs the event loop until a signal or the front-end ends it.
final class Daemon {
  private let options: Serve
  private let lines: Locked<LineLimit>
  private let log = Logger(label: "pinhole")
  private let loop: EventLoop
  private let signals: OwnedFD
  private let udmabuf: Result<UdmabufDevice, CopyReason>
  private let keeper: WitnessKeeper?
  private let store: BufferStore
  private let device: GPUDevice
  private let qemu: QEMUDisplay
  private let server: VhostUserServer
  private var frames: FrameServer?
  private var failure: Failure?

  /// Opens what a cgroup or sandbox may deny later, first.
  init(_ options: Serve, _ lines: Locked<LineLimit>) throws {
    self.options = options
    self.lines = lines
    // Before any thread starts, so that all inherit the mask.
    signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT, SIGUSR1])
    }
    udmabuf = Result { () throws(CopyReason) in try UdmabufDevice.open() }
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
      store = BufferStore(device: udmabuf, keeper: witness, log: log)
      store.onDiscard = options.detector == .none ? .ignore : options.onDiscard
      var configuration = GPUConfiguration()
      configuration.mode = options.scanout
      options.budgets.apply(to: &configuration)
      store.pinBudget = options.budgets.maxPinned.bytes
      device = try GPUDevice(
        configuration, memory: memory, store: store,
        holds: try HoldQueue(on: loop, deadline: UInt64(options.holdDeadline) * 1_000_000),
        on: loop, log: log)
      qemu = QEMUDisplay(
        on: loop, log: log, way: options.qemuDisplay == .dmabuf ? .dmabuf : .pixels)
      server = VhostUserServer(device: device, memory: memory, loop: loop, logger: log)
    } catch { throw Failure("cannot start the event loop: \(error)") }
  }

  /// Serves until the end.
  func run() throws {
    if options.qemuDisplay != .off { qemu.source = device }
    device.displays = qemu
    device.displaySocketArrived = { [unowned self] in qemu.attach($0) }
    device.frontEndLeft = { [unowned self] in qemu.detach() }
    qemu.onDemandChanged = { [unowned self] in device.demandChanged() }
    if options.qemuDisplay != .off { device.add(qemu) }
    try startFrames()
    defer { stop() }
    try watchSignals()
    try startServing()
    let greeting = greeting()
    let confinement = try enterSandbox(
      options.sandbox,
      sockets: [options.socketPath, options.framesSocket, options.copySocket].compactMap { $0 },
      keeper: keeper)
    log.info("\(greeting); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    LogLines.makeRoom(lines)
    log.info("\(summary())")
    if let failure { throw failure }
  }

  private static func witness(
    _ choice: DetectorChoice
  ) throws -> Result<WitnessKeeper, WitnessError> {
    let witness = Result { () throws(WitnessError) in
      try WitnessKeeper(
        detector: Detector(rawValue: choice.rawValue), device: try? WitnessKeeper.openDevice(),
        startsListener: false)
    }
    if choice != .auto, case .failure(let error) = witness {
      throw Failure("--detector \(choice.rawValue): \(error)")
    }
    return witness
  }

  private func startFrames() throws {
    guard options.framesSocket != nil || options.copySocket != nil else { return }
    let frames = try explain("cannot serve frames") { () throws(Errno) in
      var settings = FrameServer.Options()
      settings.maxConsumers = options.budgets.maxConsumers
      settings.holdDeadline = UInt64(options.holdDeadline) * 1_000_000
      settings.closeDeadline = settings.holdDeadline
      settings.allowedUsers = Set(options.allowedUsers)
      settings.allowedCopyUsers = Set(options.allowedCopyUsers)
      return try FrameServer(loop: loop, options: settings, log: log)
    }
    do throws(FrameListenerError) {
      if let path = options.framesSocket { try frames.listen(path) }
      if let path = options.copySocket { try frames.listen(path, copiesOnly: true) }
    } catch { throw Failure("\(error)") }
    frames.source = device
    frames.onDemandChanged = { [unowned self] _ in device.demandChanged() }
    device.add(frames)
    self.frames = frames
  }

  private func startServing() throws {
    if let path = options.socketPath {
      do throws(ListenError) { try server.listen(on: path) } catch {
        throw Failure("--socket-path: \(error)")
      }
      return
    }
    guard let fd = options.fd else { return }
    guard UnixSocket.isSocket(fd, kind: .stream) else {
      throw Failure("--fd \(fd) is not a connected Unix stream socket")
    }
    server.sessionEnded = { [unowned self] reason in
      if reason != .frontEndClosed { failure = Failure("\(reason)") }
      loop.stop()
    }
    try explain("cannot serve --fd \(fd)") { () throws(Errno) in
      try server.serve(OwnedFD(adopting: fd))
    }
  }

  private func watchSignals() throws {
    let fd = signals.raw
    try explain("cannot watch signals") { () throws(Errno) in
      _ = try loop.watch(fd, for: .readable) { [unowned self] _ in
        let number = Signals.next(from: fd)
        if number == SIGUSR1 { report() } else if number != 0 { loop.stop() }
      }
    }
  }

  private func stop() {
    server.stop()
    frames?.close()
  }

  private func greeting() -> String {
    let place = options.socketPath.map { "on \($0)" } ?? "the socket that was handed in"
    return "pinhole \(pinholeVersion) serves \(place); \(abilities)"
  }

  /// What a guest in a sealed memfd would get, and what stands in the way.
  private var abilities: String {
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
    "counters: " + describe(device.counters, store.counters, frames?.counters)
  }
}

/// Turns the errno of a step into one line for the operator.
private func explain<R: ~Copyable>(
  _ what: String, _ body: () throws(Errno) -> R
) throws(Failure) -> R {
  do throws(Errno) { return try body() } catch { throw Failure("\(what): \(error)") }
}
