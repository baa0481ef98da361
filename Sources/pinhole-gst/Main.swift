import ArgumentParser
import Command
import GStreamerBridge
import Glibc
import HelperOptions
import Linux
import Logging
import Sandbox

/// The program behind `pinhole gst`.
@main
struct GStreamer: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole gst",
    abstract: GStreamerOptions.abstract,
    discussion: """
      gst-launch-1.0 unixfdsrc socket-path=PATH ! videoconvert ! …
      Rows of a multiple of 64 pixels go as they are; others are copied once more.
      Each reader sees the newest pictures at its own pace. The producer may end and start again.
      """,
    version: pinholeFullVersion)

  static func main() { runAsProgram() }

  @OptionGroup var options: GStreamerOptions

  func run() throws {
    guard !options.framesSocket.isEmpty, !options.unixfd.isEmpty,
      options.framesSocket != options.unixfd
    else {
      throw ValidationError("--frames-socket and --unixfd need different paths")
    }
    guard options.output < 16 else { throw ValidationError("--output takes 0 to 15") }
    guard options.maxReaders > 0 else { throw ValidationError("--max-readers must be at least 1") }
    LogLines.bootstrap(level: options.logLevel, perSecond: 100)
    let log = Logger(label: "pinhole")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let server: UnixFDServer
    do throws(ListenError) {
      server = try UnixFDServer(
        on: options.unixfd, frames: options.framesSocket, output: options.output,
        maxReaders: options.maxReaders, loop: loop,
        log: log)
    } catch { throw Failure("--unixfd: \(error)") }
    defer { server.stop() }
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals)
    }
    let confinement = try Sandbox.enter(
      options.sandbox, policy: .bridge(), removing: [options.unixfd], keepsRoot: true)
    log.info(
      "pinhole gst \(pinholeVersion) serves output \(options.output) on \(options.unixfd); \(confinement)"
    )
    do throws(Errno) { try loop.run() } catch { throw Failure("the event loop failed: \(error)") }
  }
}
