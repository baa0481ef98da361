import Glibc
import Linux
import Testing

@Suite struct LogOutputTests {
  @Test(arguments: [
    ("plain", "plain"), ("Größe 8×", "Größe 8×"), ("two\nlines", "two\\nlines"),
    ("\u{1b}[2Jred\u{7}", "\\u{1b}[2Jred\\u{7}"), ("a\u{202e}b", "a\\u{202e}b"),
    ("a\u{9b}b\u{2028}c\t", "a\\u{9b}b\\u{2028}c\\t"),
  ])
  func nothingForeignChangesHowALineLooks(_ text: String, _ expected: String) {
    #expect(text.printable == expected)
  }

  /// Standard error is a pipe that is full: lines are lost, and it is told how many.
  @Test(arguments: ["pipe", "socket"])
  func nobodyReads(_ kind: String) async throws {
    if kind == "pipe" {
      await #expect(processExitsWith: .exitCode(7)) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { exit(1) }
        exit(LogOutputTests.flood(ends[0], ends[1]))
      }
    } else {
      await #expect(processExitsWith: .exitCode(7)) {
        var ends: (SharedFD?, SharedFD?) = (nil, nil)
        try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
        guard let reader = ends.0, let writer = ends.1 else { exit(1) }
        exit(withExtendedLifetime(ends) { LogOutputTests.flood(reader.raw, writer.raw) })
      }
    }
  }

  private static func flood(_ reader: CInt, _ writer: CInt) -> CInt {
    guard dup2(writer, 2) == 2 else { return 2 }
    LogOutput.prepare()
    // The flag of the description that others share stays as it is.
    guard fcntl(2, F_GETFL) & O_NONBLOCK == 0 else { return 3 }
    let line = String(repeating: "x", count: 200)
    for _ in 0..<20_000 { LogOutput.write(line) }
    guard fcntl(reader, F_SETFL, O_NONBLOCK) == 0 else { return 4 }
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    while read(reader, &bytes, bytes.count) > 0 {}
    func next(_ line: String) -> String {
      LogOutput.write(line)
      let count = read(reader, &bytes, bytes.count)
      return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    }
    let first = next("after")
    guard first.contains("lines dropped"), first.hasSuffix("after\n") else { return 5 }
    // It is told once, and a line that is longer than what a pipe takes as a whole is cut.
    guard next("again") == "again\n" else { return 6 }
    let cut = next(String(repeating: "y", count: 10_000))
    return cut.utf8.count == 4096 && cut.hasSuffix("y\n") ? 7 : 8
  }
}
