import ArgumentParser
import Command
import Glibc
import Linux
import Logging
import PipeWireBridge
import Sandbox

/// The program behind `pinhole pipewire`.
@main
struct PipeWire: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole pipewire",
    abstract: "Show a guest's outputs as video sources in PipeWire.",
    discussion: """
      gst-launch-1.0 pipewiresrc target-object=pinhole ! videoconvert ! autovideosink
      Both daemons may end and start again.
      """,
    version: pinholeVersion)

  static func main() { runAsProgram() }

  @Option(help: "The frame or copy socket of pinhole serve.")
  var framesSocket: String

  @Option(help: "Name of the node of output 0; output 1 has -1 behind it, and so on.")
  var name = "pinhole"

  @Option(help: "The nodes' media.role: Screen, or Camera for programs that ask the camera portal.")
  var role = "Screen"

  @Option(help: "PipeWire's socket, a name or a path; without it what the environment says.")
  var remote: String?

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  func run() throws {
    guard !framesSocket.isEmpty, !name.isEmpty else {
      throw ValidationError("--frames-socket and --name cannot be empty")
    }
    LogLines.bootstrap(level: logLevel, perSecond: 100)
    Precautions.take()
    let log = Logger(label: "pinhole")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let bridge = try explain("cannot use PipeWire's library") { () throws(Errno) in
      try PipeWireBridge(
        frames: framesSocket, name: name, role: role, remote: remote, loop: loop, log: log)
    }
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals)
    }
    let (confinement, watchdog) = try Sandbox.enter(
      sandbox, policy: .pipeWire(), keepsRoot: true, over: loop, log)
    log.info("pinhole pipewire \(pinholeVersion) shows \(framesSocket); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    withExtendedLifetime((bridge, watchdog)) {}
  }
}
