import ArgumentParser
import Command
import GStreamerBridge
import Glibc
import Linux
import Logging
import Sandbox

/// The program behind `pinhole gst`.
@main
struct GStreamer: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole gst",
    abstract: "Give an output to GStreamer 1.24 or later, without copying it again.",
    discussion: """
      gst-launch-1.0 unixfdsrc socket-path=PATH ! videoconvert ! …
      Rows of a multiple of 64 pixels go as they are; others are copied once more.
      Each reader sees the newest pictures at its own pace. The producer may end and start again.
      """,
    version: pinholeVersion)

  static func main() { runAsProgram() }

  @Option(help: "The frame or copy socket of pinhole serve.")
  var framesSocket: String

  @Option(help: "Where unixfdsrc connects.")
  var unixfd: String

  @Option(help: "Which output of the guest.")
  var output: UInt32 = 0

  @Option(help: "Readers that may be connected.")
  var maxReaders = 8

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  func run() throws {
    guard !framesSocket.isEmpty, !unixfd.isEmpty, framesSocket != unixfd else {
      throw ValidationError("--frames-socket and --unixfd need different paths")
    }
    guard output < 16 else { throw ValidationError("--output takes 0 to 15") }
    guard maxReaders > 0 else { throw ValidationError("--max-readers must be at least 1") }
    LogLines.bootstrap(level: logLevel, perSecond: 100)
    Precautions.take()
    let log = Logger(label: "pinhole")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let server: UnixFDServer
    do throws(ListenError) {
      server = try UnixFDServer(
        on: unixfd, frames: framesSocket, output: output, maxReaders: maxReaders, loop: loop,
        log: log)
    } catch { throw Failure("--unixfd: \(error)") }
    defer { server.stop() }
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals)
    }
    let (confinement, watchdog) = try Sandbox.enter(
      sandbox, policy: .bridge(), removing: [unixfd], keepsRoot: true, over: loop, log)
    log.info("pinhole gst \(pinholeVersion) serves output \(output) on \(unixfd); \(confinement)")
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
    withExtendedLifetime(watchdog) {}
  }
}
