import ArgumentParser
import Command
import Glibc
import GuestMemory
import InputControl
import Linux
import Logging
import Sandbox
import VhostUser
import VirtioInput

/// `pinhole input`: the devices.
struct ServeInput: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "serve",
    abstract: "Serve virtio input devices, or drive those of a running QEMU.",
    discussion: """
      Start it before QEMU, with guest memory shared as for the GPU, and give QEMU for each:
        -chardev socket,id=keyboard,path=PATH -device vhost-user-input-pci,chardev=keyboard
      Programs that control the guest, such as pinhole vnc, connect to the control socket.
      """)

  @Option(help: "Serve a keyboard to the front-end that connects to this path; repeatable.")
  var keyboard: [String] = []

  @Option(help: "Serve a pointer that takes places; the n-th belongs to the guest's output n.")
  var tablet: [String] = []

  @Option(help: "Serve a pointer that takes motions; repeatable.")
  var mouse: [String] = []

  @Option(help: "Instead of devices of its own, use this QMP socket of a running QEMU.")
  var qmp: String?

  @Option(help: "Where programs that control the guest connect.")
  var controlSocket: String

  @Option(help: "Mode of the control socket, octal: whoever may write to it may control.")
  var controlMode: FileMode = FileMode(0o600)

  @Option(help: "Group of the control socket, a name or a number.")
  var controlGroup: GroupName?

  @Option(help: "Controllers that may be connected.")
  var maxControllers = 16

  @Option(help: "Events a second that one controller may send.")
  var maxRate = 4000

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  private var devices: [(InputProfile.Kind, String)] {
    keyboard.map { (.keyboard, $0) } + tablet.map { (.tablet, $0) } + mouse.map { (.mouse, $0) }
  }

  private func check() throws {
    if devices.isEmpty == (qmp == nil) {
      throw ValidationError(
        "give --keyboard, --tablet or --mouse for devices, or --qmp for a running QEMU")
    }
    let paths = devices.map(\.1) + [controlSocket] + (qmp.map { [$0] } ?? [])
    if paths.contains(where: \.isEmpty) {
      throw ValidationError("a socket path cannot be empty")
    }
    if Set(paths).count < paths.count { throw ValidationError("each socket needs its own path") }
    if maxControllers < 1 { throw ValidationError("--max-controllers must be at least 1") }
    if !(1...1_000_000).contains(maxRate) {
      throw ValidationError("--max-rate takes 1 to 1000000 events a second")
    }
  }

  func run() throws {
    try check()
    LogLines.bootstrap(level: logLevel, perSecond: 100)
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
    if let qmp {
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
      sandbox, policy: .input(), removing: devices.map(\.1) + [controlSocket], over: loop, log)
    log.info("\(greeting); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    withExtendedLifetime((connection, watchdog)) {}
    if let failure { throw failure }
  }

  private var greeting: String {
    let what =
      qmp.map { "drives QEMU's devices through \($0)" }
      ?? "serves " + devices.map { "a \($0.0) on \($0.1)" }.joined(separator: ", ")
    return "pinhole input \(pinholeVersion) \(what), controlled on \(controlSocket)"
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
    var options = ControlServer.Options()
    options.maxControllers = maxControllers
    options.maxRate = maxRate
    options.mode = controlMode.bits
    options.group = controlGroup?.number
    let control = ControlServer(InputHub(targets), options: options, loop: loop, log: log)
    do throws(ListenError) { try control.listen(on: controlSocket) } catch {
      throw Failure("--control-socket: \(error)")
    }
    return control
  }
}

/// Permission bits in octal.
struct FileMode: ExpressibleByArgument {
  let bits: mode_t
  init(_ bits: mode_t) { self.bits = bits }
  init?(argument: String) {
    guard let bits = mode_t(argument, radix: 8), bits <= 0o777 else { return nil }
    self.bits = bits
  }
  var defaultValueDescription: String { "0" + String(bits, radix: 8) }
}

/// A group by name or number.
struct GroupName: ExpressibleByArgument {
  let number: gid_t
  init?(argument: String) {
    if let number = gid_t(argument) {
      self.number = number
    } else {
      guard let entry = getgrnam(argument) else { return nil }
      number = entry.pointee.gr_gid
    }
  }
}
