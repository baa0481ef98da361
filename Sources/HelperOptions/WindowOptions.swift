import ArgumentParser
import Command
import Logging
import Sandbox

/// The options that `pinhole view` has with `--wayland` alone.
package struct WindowOptions: ParsableArguments {
  @Option(help: "Which output of the guest to show, from 0.")
  package var output: UInt32 = 0

  @Option(
    help: ArgumentHelp(
      "The control socket of pinhole input; without it the window only shows.", valueName: "path"))
  package var input: String?

  @Flag(help: "Take all of the screen.")
  package var fullscreen = false

  @Option(help: "on, off, or log: what a forbidden system call does.")
  package var sandbox: Sandbox.Mode = .on

  @Option(name: .customLong("log-level"), help: "debug, info, warning or error.")
  package var logLevel: Logger.Level = .info

  package init() {}

  /// Whether any of them is other than without it.
  package var areGiven: Bool {
    output != 0 || input != nil || fullscreen || sandbox != .on || logLevel != .info
  }
}
