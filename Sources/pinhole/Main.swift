import ArgumentParser
import Glibc
import Linux

/// The command `pinhole`.
@main
struct Pinhole: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pinhole",
    abstract: "A vhost-user GPU for QEMU that shows the guest's own pages, never a stale one.",
    version: pinholeVersion,
    subcommands: [
      Serve.self, View.self, KMSCommand.self, Conformance.self, Guest.self, Doctor.self,
    ],
    defaultSubcommand: Serve.self)

  static func main() {
    Signals.ignoreSIGPIPE()
    do {
      var command = try parseAsRoot()
      try command.run()
    } catch {
      finish(error)
    }
  }

  /// Help and version go to standard output; everything else is one line on standard error and
  /// exit status 2 for wrong usage or 1 for what failed.
  private static func finish(_ error: any Error) -> Never {
    if exitCode(for: error) == .success {
      print(fullMessage(for: error))
      Glibc.exit(0)
    }
    if let code = error as? ExitCode { Glibc.exit(code.rawValue) }
    if let failure = error as? Failure {
      complain(failure.message)
      Glibc.exit(1)
    }
    // A list of the values that an option takes is several lines long.
    let lines = message(for: error).split(separator: "\n")
      .map { $0.hasPrefix("  - ") ? $0.dropFirst(4) : $0 }
    complain(lines.joined(separator: " ") + " (see pinhole --help)")
    Glibc.exit(2)
  }
}

/// The version of this program.
let pinholeVersion = "0.1.0"

/// Something that the operator can mend: what failed, on what, and what to do.
struct Failure: Error {
  let message: String
  init(_ message: String) { self.message = message }
}

/// Writes one line to standard error.
func complain(_ message: String) {
  let line = "pinhole: \(message)\n"
  _ = line.utf8.withContiguousStorageIfAvailable { Glibc.write(2, $0.baseAddress, $0.count) }
}
