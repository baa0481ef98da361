import ArgumentParser
import Command
import Glibc
import GuestMemory
import HelperOptions
import InputControl
import Linux
import Logging
import Sandbox
import VhostUser
import VirtioInput

/// `pinhole input`: the devices.
struct ServeInput: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: ServeInputOptions.name,
    abstract: ServeInputOptions.abstract,
    discussion: """
      Start it before QEMU, with guest memory shared as for the GPU, and give QEMU for each:
        -chardev socket,id=keyboard,path=PATH -device vhost-user-input-pci,chardev=keyboard
      Programs that control the guest, such as pinhole vnc, connect to the control socket.
      """)

  @OptionGroup var options: ServeInputOptions

  private var devices: [(InputProfile.Kind, String)] {
    options.keyboard.map { (.keyboard, $0) } + options.tablet.map { (.tablet, $0) }
      + options.mouse.map { (.mouse, $0) }
  }

  private func check() throws {
    if devices.isEmpty == (options.qmp == nil) {
      throw ValidationError(
        "give --keyboard, --tablet or --mouse for devices, or --qmp for a running QEMU")
    }
    let paths = devices.map(\.1) + [options.controlSocket] + (options.qmp.map { [$0] } ?? [])
    if paths.contains(where: \.isEmpty) {
      throw ValidationError("a socket path cannot be empty")
    }
    if Set(paths).count < paths.count { throw ValidationError("each socket needs its own path") }
    if options.maxControllers < 1 { throw ValidationError("--max-controllers must be at least 1") }
    if !(1...1_000_000).contains(options.maxRate) {
      throw ValidationError("--max-rate takes 1 to 1000000 events a second")
    }
  }

  func run() throws {
    try check()
    LogLines.bootstrap(level: options.logLevel, perSecond: 100)
    Precautions.take()
    let log = Logger(label: "pinhole")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    var failure: Failure?
    var servers: [VhostUserServer] = []
    defer { for server in servers { server.stop() } }
    let targets: [any InputTarget]
    var connection: QMPConnection?
    if let qmp = options.qmp {
      let made: QMPConnection
      do throws(Errno) { made = try QMPConnection(path: qmp, loop: loop, log: log) } catch {
        let advice =
          error.code == ETIMEDOUT
          ? "; another program is connected to it: give QEMU one more -qmp"
          : error.adviceToConnect(server: "qemu … -qmp unix:\(qmp),server=on,wait=off")
        throw Failure("--qmp \(qmp): \(error)\(advice)")
      }
      made.ended = {
        failure = Failure("--qmp \(qmp): \($0); start QEMU again, then this")
        loop.stop()
      }
      connection = made
      targets = made.targets
    } else {
      targets = try serveDevices(&servers, loop, log)
    }
    let control = try serveControl(targets, loop, log)
    defer { control.stop() }
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals)
    }
    let (confinement, watchdog) = try Sandbox.enter(
      options.sandbox, policy: .input(), removing: devices.map(\.1) + [options.controlSocket],
      over: loop, log)
    log.info("\(greeting); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    withExtendedLifetime((connection, watchdog)) {}
    if let failure { throw failure }
  }

  private var greeting: String {
    let what =
      options.qmp.map { "drives QEMU's devices through \($0)" }
      ?? "serves " + devices.map { "a \($0.0) on \($0.1)" }.joined(separator: ", ")
    return "pinhole input \(pinholeVersion) \(what), controlled on \(options.controlSocket)"
  }

  private func serveDevices(
    _ servers: inout [VhostUserServer], _ loop: EventLoop, _ log: Logger
  ) throws -> [any InputTarget] {
    var targets: [any InputTarget] = []
    for (kind, path) in devices {
      let number = targets.count { $0.profile.kind == kind }
      let name = "Pinhole \(kind)" + (number == 0 ? "" : " \(number + 1)")
      let device = InputDevice(InputProfile(kind, name: name), log: log)
      let server = VhostUserServer(
        device: device, memory: GuestMemory(), loop: loop, logger: log)
      do throws(ListenError) { try server.listen(on: path) } catch {
        throw Failure("--\(kind): \(error)")
      }
      targets.append(device)
      servers.append(server)
    }
    return targets
  }

  private func serveControl(
    _ targets: [any InputTarget], _ loop: EventLoop, _ log: Logger
  ) throws -> ControlServer {
    var limits = ControlServer.Options()
    limits.maxControllers = options.maxControllers
    limits.maxRate = options.maxRate
    limits.mode = options.controlMode.bits
    limits.group = options.controlGroup?.id
    let control = ControlServer(InputHub(targets), options: limits, loop: loop, log: log)
    do throws(ListenError) { try control.listen(on: options.controlSocket) } catch {
      throw Failure("--control-socket: \(error)")
    }
    return control
  }
}
