import Glibc
import Linux

/// Why a check did not pass.
enum ConformanceResult: Error, CustomStringConvertible {
  /// The other side did something wrong.
  case wrong(String)
  /// It cannot be said.
  case skipped(String)

  var description: String {
    switch self {
    case .wrong(let text), .skipped(let text): return text
    }
  }
}

/// The checks that were made.
package struct ConformanceReport {
  /// Those that passed.
  package private(set) var passed = 0
  /// Those that did not.
  package private(set) var failed = 0
  /// Those that could not be made.
  package private(set) var skipped = 0

  /// None yet.
  package init() {}

  /// Makes a check and prints a line about it.
  ///
  /// - Returns: whether it passed.
  @discardableResult
  mutating func check(_ name: String, _ body: () throws -> Void) -> Bool {
    do {
      try body()
      passed += 1
      line("PASS", name)
      return true
    } catch ConformanceResult.skipped(let text) {
      skipped += 1
      line("SKIP", "\(name): \(text)")
    } catch {
      failed += 1
      line("FAIL", "\(name): \(error)")
    }
    return false
  }

  private func line(_ verdict: String, _ text: String) {
    // What the other side said of itself may be in it.
    print("\(verdict) \(text.printable)")
    fflush(nil)
  }
}
