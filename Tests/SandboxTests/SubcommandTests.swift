import Testing

@testable import pinhole

@Suite struct SubcommandTests {
  private let known = ["serve", "view", "kms", "status", "conformance", "guest", "doctor"]

  @Test(arguments: [
    ("viw", "view"), ("veiw", "view"), ("docter", "doctor"), ("conformence", "conformance"),
    ("statsu", "status"),
  ])
  func nearWordsAreSuggested(_ word: String, _ meant: String) {
    #expect(Subcommands.suggestion(for: word, of: known) == meant)
  }

  @Test(arguments: ["frobnicate", "x", "help!"])
  func farWordsAreNot(_ word: String) {
    #expect(Subcommands.suggestion(for: word, of: known) == nil)
  }
}
