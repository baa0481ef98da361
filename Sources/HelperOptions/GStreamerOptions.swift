import ArgumentParser
import Command
import Logging
import Sandbox

/// The options of `pinhole gst`.
package struct GStreamerOptions: HelperOptions {
  package static let name = "gst"
  package static let abstract =
    "Give an output to GStreamer 1.24 or later, without copying it again."

  @Option(help: "The frame or copy socket of pinhole serve.")
  package var framesSocket: String

  @Option(help: "Where unixfdsrc connects.")
  package var unixfd: String

  @Option(help: "Which output of the guest.")
  package var output: UInt32 = 0

  @Option(help: "Readers that may be connected.")
  package var maxReaders = 8

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  package var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  package var logLevel: Logger.Level = .info

  package init() {}
}
