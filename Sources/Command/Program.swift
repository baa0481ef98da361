import ArgumentParser
import CVersion
import Glibc
import Linux

/// A command line that is a process of its own: `pinhole`, and what it starts in its place.
///
/// Help and version go to standard output; everything else is one line on standard error and exit
/// status 2 for wrong usage or 1 for what failed.
package protocol Program: ParsableCommand {}

extension Program {
  /// Parses the command line, runs it and ends the process.
  package static func runAsProgram() -> Never {
    Signals.ignoreSIGPIPE()
    do {
      var command = try parseAsRoot()
      try command.run()
      Glibc.exit(0)
    } catch {
      finish(error)
    }
  }

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
    complain(lines.joined(separator: " ") + " (see \(help(for: error)))")
    Glibc.exit(2)
  }

  /// The command that tells the right usage: the parser knows at which subcommand it was.
  private static func help(for error: any Error) -> String {
    for line in fullMessage(for: error).split(separator: "\n") {
      let words = line.split(separator: "'", omittingEmptySubsequences: false)
      if words.count == 3, words[0].hasSuffix("See "), words[1].hasSuffix("--help") {
        return String(words[1])
      }
    }
    return "\(configuration.commandName ?? "pinhole") --help"
  }
}

/// The version of all programs of Pinhole.
package let pinholeVersion = "0.1.0"

/// The version, and the commit that it was built from where the build knew.
package let pinholeFullVersion: String = {
  let commit = String(cString: ph_commit())
  return commit.isEmpty ? pinholeVersion : "\(pinholeVersion) (\(commit))"
}()

/// Something that the operator can mend: what failed, on what, and what to do.
package struct Failure: Error {
  package let message: String
  package init(_ message: String) { self.message = message }
}

/// Writes one line to standard error, and waits for nobody to read it once
/// ``LogOutput/prepare()`` was called.
package func complain(_ message: String) { LogOutput.write("pinhole: \(message)") }

/// Turns the errno of a step into one line for the operator.
package func explain<R: ~Copyable>(
  _ what: String, _ body: () throws(Errno) -> R
) throws(Failure) -> R {
  do throws(Errno) { return try body() } catch { throw Failure("\(what): \(error)") }
}
