import ArgumentParser
import Testing

@testable import Command
@testable import HelperOptions
@testable import pinhole

@Suite struct SubcommandTests {
  /// What is said of a command line of `pinhole`.
  private func mistake(_ words: String) -> String? {
    Subcommands.mistake(in: words.split(separator: " ").map { String($0) }, of: Pinhole.self)
  }

  @Test(arguments: [
    ("viw", "view"), ("veiw", "view"), ("docter", "doctor"), ("conformence", "conformance"),
    ("statsu", "status"), ("hlep", "help"), ("help viw", "view"), ("vcn --help", "vnc"),
    ("input snd --help", "send"), ("input help snd", "send"), ("help input snd", "send"),
    ("help!", "help"),
  ])
  func nearWordsAreSuggested(_ words: String, _ meant: String) {
    #expect(mistake(words)?.contains("; did you mean \"\(meant)\"? (see pinhole ") == true)
  }

  @Test(arguments: ["frobnicate", "x", "help vnc x", "help serve x", "input x"])
  func farWordsAreRefusedWithoutOne(_ words: String) {
    #expect(mistake(words)?.hasPrefix("there is no subcommand ") == true)
    #expect(mistake(words)?.contains("did you mean") == false)
  }

  @Test(arguments: [
    "", "help", "help help", "help view", "help input send", "input send key=30", "input help send",
    "--socket-path a.sock", "conformance --listen a.sock -- help me", "vnc --listen x", "help vnc",
    "help view --wayland",
  ])
  func otherWordsAreTheParsers(_ words: String) { #expect(mistake(words) == nil) }

  @Test func theRightHelpIsNamed() {
    #expect(
      mistake("input snd")
        == "there is no subcommand \"snd\"; did you mean \"send\"? (see pinhole input --help)")
  }

  /// Whatever is started in place of `pinhole` can be asked for, and completed, by its name.
  @Test func everyProgramIsASubcommand() {
    let known = Pinhole.configuration.subcommands.map { $0._commandName }
    for name in Programs.names { #expect(known.contains(name), "\(name)") }
  }
}
