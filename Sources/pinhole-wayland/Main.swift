import ArgumentParser
import Command
import Glibc
import Linux
import Logging
import Sandbox
import WaylandView

/// `pinhole view --wayland`: an output of a guest in a window.
@main
struct WaylandCommand: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole view --wayland",
    abstract: "Show a guest in a window of a Wayland compositor.",
    discussion: """
      The compositor gets the guest's own pages where it imports them (zwp_linux_dmabuf_v1), and \
      copies otherwise. Ends when the window is closed, with SIGTERM or SIGINT, and exit status 0; \
      1 when the compositor or the producer cannot be reached.
      """,
    version: pinholeVersion)

  static func main() { runAsProgram() }

  @Option(name: .customLong("frames-socket"), help: "The producer's socket.")
  var frames: String

  @Option(help: "Which output of the guest to show, from 0.")
  var output: UInt32 = 0

  @Option(
    help: ArgumentHelp(
      "The control socket of pinhole input; without it the window only shows.", valueName: "path"))
  var input: String?

  @Flag(help: "Take all of the screen.")
  var fullscreen = false

  @Flag(name: .customLong("copy-only"), help: "Never the guest's own pages.")
  var copyOnly = false

  @Option(help: "on, off, or log: what a forbidden system call does.")
  var sandbox: Sandbox.Mode = .on

  @Option(name: .customLong("log-level"), help: "debug, info, warning or error.")
  var logLevel: Logger.Level = .info

  func run() throws {
    LogLines.bootstrap(level: logLevel, perSecond: 20)
    Precautions.take()
    let log = Logger(label: "view")
    let signals = try explain("signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("event loop") { () throws(Errno) in try EventLoop() }
    var options = WaylandView.Options(frames: frames)
    options.output = output
    options.input = input
    options.fullscreen = fullscreen
    options.copyOnly = copyOnly
    let view = try made(options, loop, log)
    let (confined, watchdog) = try Sandbox.enter(
      sandbox, policy: .viewing(removesFiles: false), over: loop, log)
    log.info("\(confined)")
    log.info("a window shows output \(output): \(view.way)")
    try explain("signals") { () throws(Errno) in try loop.stop(on: signals) }
    defer { log.info("\(view.shown.direct) frames shown directly, \(view.shown.copied) copied") }
    do throws(WaylandError) { try view.run() } catch { throw Failure("view --wayland: \(error)") }
    withExtendedLifetime(watchdog) {}
  }

  private func made(
    _ options: WaylandView.Options, _ loop: EventLoop, _ log: Logger
  ) throws(Failure) -> WaylandView {
    do throws(WaylandError) {
      return try WaylandView(options, on: loop, log: log)
    } catch { throw Failure("view --wayland: \(error)") }
  }
}
