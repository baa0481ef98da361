import ArgumentParser
import Conformance

/// `pinhole conformance`: checks a producer or a consumer against the frame protocol.
struct Conformance: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Check any producer or consumer of frames against the protocol.",
    discussion: """
      With --frames-socket it plays consumers, well-behaved and not, at a producer. With --listen \
      it plays a producer for the command that follows, which must show what is on that socket \
      until the producer ends.

      One line a check: PASS, FAIL with what was wrong, or SKIP. Exit status 1 if any failed.
      """)

  @Option(help: "The socket of the producer to check.")
  var framesSocket: String?

  @Option(help: "Listen here, and check the consumer that connects.")
  var listen: String?

  @Argument(parsing: .postTerminator, help: "The consumer, started by this program.")
  var command: [String] = []

  func validate() throws {
    if (framesSocket == nil) == (listen == nil) {
      throw ValidationError("give either --frames-socket PATH or --listen PATH")
    }
    if framesSocket != nil, !command.isEmpty {
      throw ValidationError("a command is started only with --listen")
    }
  }

  func run() throws {
    var report = ConformanceReport()
    if let framesSocket {
      ProducerChecks(path: framesSocket).run(&report)
    } else if let listen {
      try ConsumerChecks(path: listen, command: command).run(&report)
    }
    print("\(report.passed) passed, \(report.failed) failed, \(report.skipped) skipped")
    if report.failed > 0 { throw ExitCode(1) }
  }
}
