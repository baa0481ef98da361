import ArgumentParser
import Command
import Glibc
import HelperOptions
import Linux
import Logging
import PipeWireBridge
import Sandbox

/// The program behind `pinhole pipewire`.
@main
struct PipeWire: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole pipewire",
    abstract: PipeWireOptions.abstract,
    discussion: """
      gst-launch-1.0 pipewiresrc target-object=pinhole ! videoconvert ! autovideosink
      Both daemons may end and start again.
      """,
    version: pinholeFullVersion)

  static func main() { runAsProgram() }

  @OptionGroup var options: PipeWireOptions

  func run() throws {
    guard !options.framesSocket.isEmpty, !options.node.isEmpty else {
      throw ValidationError("--frames-socket and --name cannot be empty")
    }
    LogLines.bootstrap(level: options.logLevel, perSecond: 100)
    let log = Logger(label: "pinhole")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let bridge = try explain("cannot use PipeWire's library") { () throws(Errno) in
      try PipeWireBridge(
        frames: options.framesSocket, name: options.node, role: options.role,
        remote: options.remote, loop: loop, log: log)
    }
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals)
    }
    let confinement = try Sandbox.enter(options.sandbox, policy: .pipeWire(), keepsRoot: true)
    log.info("pinhole pipewire \(pinholeVersion) shows \(options.framesSocket); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    withExtendedLifetime(bridge) {}
  }
}
