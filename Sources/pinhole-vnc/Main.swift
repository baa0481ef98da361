import ArgumentParser
import Command
import Glibc
import Linux
import Logging
import Sandbox
import VNC

/// `pinhole vnc`: a guest's screen, keyboard and pointer for VNC viewers.
@main
struct VNCCommand: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole vnc",
    abstract: "Show a guest to VNC viewers, and give it their keyboard and pointer.",
    discussion: """
      It has no password and no encryption, so it listens on this machine's own addresses alone; \
      from elsewhere come through ssh -L. The second output is at the next port, or at the path \
      with .1 behind it.

      Ends with SIGTERM or SIGINT and exit status 0; 1 when it cannot listen or connect.
      """,
    version: pinholeVersion)

  static func main() { runAsProgram() }

  @Option(name: .customLong("frames-socket"), help: "The producer's socket; copies are enough.")
  var frames: String

  @Option(
    help: ArgumentHelp(
      "Where viewers connect: 127.0.0.1:5900, [::1]:5900, or a path with a slash.",
      valueName: "address"))
  var listen: String = "127.0.0.1:5900"

  @Option(
    name: .customLong("input"),
    help: ArgumentHelp(
      "The control socket of pinhole input; without it viewers only look.", valueName: "path"))
  var input: String?

  @Option(help: "How many outputs to show.")
  var outputs = 1

  @Option(
    help: ArgumentHelp(
      "The guest's keyboard, for viewers that send no scan codes; de or de:nodeadkeys.",
      valueName: "layout"))
  var keyboard: String = "us"

  @Option(help: "The desktop's name.")
  var name: String = "pinhole"

  @Option(name: .customLong("max-viewers"), help: "Viewers of all outputs together.")
  var maxViewers = 32

  @Option(help: "Seconds after which a viewer that takes nothing is disconnected.")
  var timeout = 60

  @Option(help: "on, off, or log: what a forbidden system call does.")
  var sandbox: Sandbox.Mode = .on

  @Option(name: .customLong("log-level"), help: "debug, info, warning or error.")
  var logLevel: Logger.Level = .info

  func validate() throws {
    guard VNCAddress(listen) != nil else {
      throw ValidationError(
        "--listen takes a numeric address with a port, or a path with a slash; \(listen) is neither"
      )
    }
    guard (1...16).contains(outputs) else { throw ValidationError("--outputs takes 1 to 16") }
    guard (1...1000).contains(maxViewers) else {
      throw ValidationError("--max-viewers takes 1 to 1000")
    }
    guard (1...86_400).contains(timeout) else {
      throw ValidationError("--timeout takes 1 to 86400 seconds")
    }
  }

  func run() throws {
    LogLines.bootstrap(level: logLevel, perSecond: 20)
    Precautions.take()
    let log = Logger(label: "vnc")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let bridge: VNCBridge
    do throws(VNCBridge.Failure) {
      bridge = try VNCBridge(options, on: loop, log: log)
    } catch { throw Failure("vnc: \(error)") }
    let (confined, watchdog) = try Sandbox.enter(
      sandbox, policy: .viewing(), removing: bridge.paths, over: loop, log)
    log.info("\(confined)")
    for (output, address) in bridge.addresses.enumerated() {
      log.info("viewers of output \(output) connect to \(address)")
    }
    try explain("the event loop failed") { () throws(Errno) in
      try loop.stop(on: signals)
      try loop.run()
    }
    withExtendedLifetime(watchdog) {}
  }

  private var options: VNCBridge.Options {
    let keyboard = self.keyboard.split(separator: ":", maxSplits: 1).map { String($0) }
    var options = VNCBridge.Options(
      frames: frames, address: VNCAddress(listen) ?? .loopback("127.0.0.1", port: 5900))
    options.input = input
    options.outputs = outputs
    options.name = name
    options.layout = keyboard.first ?? "us"
    options.variant = keyboard.count > 1 ? keyboard[1] : ""
    options.maxViewers = maxViewers
    options.timeout = UInt64(timeout) * 1_000_000_000
    return options
  }
}
