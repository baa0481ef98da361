import Glibc
import Linux
import Testing

@Suite struct WholeFileTests {
  private func withFile(_ body: (String) throws -> Void) throws {
    let path = "/tmp/pinhole-file-\(getpid())-\(Clock.now)"
    defer { unlink(path) }
    try body(path)
  }

  /// Three of what is read at a time, and a bit.
  private static let long = (0..<200_001).map { UInt8(truncatingIfNeeded: $0 &* 7) }

  @Test func whatWasWrittenIsRead() throws {
    try withFile { path in
      try WholeFile.write(Self.long, to: path)
      #expect(try WholeFile.read(path) == Self.long)
      // Nothing is left of what was there before.
      try WholeFile.write([1, 2, 3], to: path)
      #expect(try WholeFile.read(path) == [1, 2, 3])
      try WholeFile.write([], to: path)
      #expect(try WholeFile.read(path) == [])
    }
  }

  @Test(arguments: [0, 1, 65_535, 65_536, 65_537, 200_000])
  func noMoreIsReadThanAskedFor(_ most: Int) throws {
    try withFile { path in
      try WholeFile.write(Self.long, to: path)
      #expect(try WholeFile.read(path, most: most) == Array(Self.long.prefix(most)))
    }
  }

  @Test func failuresNameTheFile() throws {
    let failure = #expect(throws: WholeFile.Failure.self) {
      try WholeFile.read("/nonexistent/file")
    }
    #expect(failure?.path == "/nonexistent/file" && failure?.errno.code == ENOENT)
    #expect(throws: WholeFile.Failure.self) { try WholeFile.write([1], to: "/nonexistent/file") }
    #expect(WholeFile.text("/nonexistent/file") == nil)
  }
}
