import ArgumentParser
import Command
import Glibc
import HelperOptions
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
    version: pinholeFullVersion)

  static func main() { runAsProgram() }

  @Option(name: .customLong("frames-socket"), help: "The producer's socket.")
  var frames: String

  @Flag(name: .customLong("copy-only"), help: "Never the guest's own pages.")
  var copyOnly = false

  @OptionGroup var window: WindowOptions

  func run() throws {
    LogLines.bootstrap(level: window.logLevel, perSecond: 20)
    let log = Logger(label: "view")
    let signals = try explain("signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("event loop") { () throws(Errno) in try EventLoop() }
    var options = WaylandView.Options(frames: frames)
    options.output = window.output
    options.input = window.input
    options.fullscreen = window.fullscreen
    options.copyOnly = copyOnly
    let view = try made(options, loop, log)
    let confined = try Sandbox.enter(window.sandbox, policy: .viewing(), keepsRoot: true)
    log.info("\(confined)")
    log.info("a window shows output \(window.output): \(view.way)")
    try explain("signals") { () throws(Errno) in try loop.stop(on: signals) }
    defer { log.info("\(view.shown.direct) frames shown directly, \(view.shown.copied) copied") }
    do throws(WaylandError) { try view.run() } catch { throw Failure("view --wayland: \(error)") }
  }

  private func made(
    _ options: WaylandView.Options, _ loop: EventLoop, _ log: Logger
  ) throws(Failure) -> WaylandView {
    do throws(WaylandError) {
      return try WaylandView(options, on: loop, log: log)
    } catch { throw Failure("view --wayland: \(error)") }
  }
}
