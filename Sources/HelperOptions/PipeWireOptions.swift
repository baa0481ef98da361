import ArgumentParser
import Command
import Logging
import Sandbox

/// The options of `pinhole pipewire`.
package struct PipeWireOptions: HelperOptions {
  package static let name = "pipewire"
  package static let abstract = "Show a guest's outputs as video sources in PipeWire."

  @Option(help: "The frame or copy socket of pinhole serve.")
  package var framesSocket: String

  @Option(
    name: .customLong("name"),
    help: "Name of the node of output 0; output 1 has -1 behind it, and so on.")
  package var node = "pinhole"

  @Option(help: "The nodes' media.role: Screen, or Camera for programs that ask the camera portal.")
  package var role = "Screen"

  @Option(help: "PipeWire's socket, a name or a path; without it what the environment says.")
  package var remote: String?

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  package var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  package var logLevel: Logger.Level = .info

  package init() {}
}
