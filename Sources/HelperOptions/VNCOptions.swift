import ArgumentParser
import Command
import Logging
import Sandbox

/// The options of `pinhole vnc`.
package struct VNCOptions: HelperOptions {
  package static let name = "vnc"
  package static let abstract =
    "Show a guest to VNC viewers, and give it their keyboard and pointer."

  @Option(name: .customLong("frames-socket"), help: "The producer's socket; copies are enough.")
  package var frames: String

  @Option(
    help: ArgumentHelp(
      "Where viewers connect: 127.0.0.1:5900, [::1]:5900, or a path with a slash.",
      valueName: "address"))
  package var listen: String = "127.0.0.1:5900"

  @Option(
    name: .customLong("input"),
    help: ArgumentHelp(
      "The control socket of pinhole input; without it viewers only look.", valueName: "path"))
  package var input: String?

  @Option(help: "How many outputs to show.")
  package var outputs = 1

  @Option(
    help: ArgumentHelp(
      "The guest's keyboard, for viewers that send no scan codes; de or de:nodeadkeys.",
      valueName: "layout"))
  package var keyboard: String = "us"

  @Option(name: .customLong("name"), help: "The desktop's name.")
  package var desktop: String = "pinhole"

  @Option(name: .customLong("max-viewers"), help: "Viewers of all outputs together.")
  package var maxViewers = 32

  @Option(help: "Seconds after which a viewer that takes nothing is disconnected.")
  package var timeout = 60

  @Option(help: "on, off, or log: what a forbidden system call does.")
  package var sandbox: Sandbox.Mode = .on

  @Option(name: .customLong("log-level"), help: "debug, info, warning or error.")
  package var logLevel: Logger.Level = .info

  package init() {}
}
