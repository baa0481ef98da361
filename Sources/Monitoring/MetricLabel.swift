/// A name and a value that tell samples of one source from those of others, such as `vm="work"`.
package struct MetricLabel: Equatable, Sendable {
  /// Letters, digits and underscores, with no digit in front.
  package let name: String
  /// Any text.
  package let value: String

  /// Why a text is no label.
  package enum Mistake: Error, Equatable, CustomStringConvertible {
    /// There is no `=` in it.
    case noValue
    /// Prometheus takes no such name.
    case badName(String)
    /// Samples have a label of this name already.
    case taken(String)

    /// What is wrong, and what to write.
    package var description: String {
      switch self {
      case .noValue: "it has no value; write NAME=VALUE, such as vm=work"
      case .badName(let name):
        "\"\(name)\" cannot be a label's name; use letters, digits and _, with no digit and no __ "
          + "in front, such as vm=work"
      case .taken(let name):
        "samples have a label \"\(name)\" of their own; choose another name, such as vm=work"
      }
    }
  }

  /// Those that Pinhole's own samples have.
  private static let own: Set<String> = ["le", "output", "reason", "version"]

  /// Reads `NAME=VALUE`; the value may be empty, and have more of `=`.
  ///
  /// - Throws: ``Mistake``.
  package init(_ text: String) throws(Mistake) {
    guard let equals = text.firstIndex(of: "=") else { throw .noValue }
    name = String(text[..<equals])
    value = String(text[text.index(after: equals)...])
    guard Self.isName(name) else { throw .badName(name) }
    guard !Self.own.contains(name) else { throw .taken(name) }
  }

  /// Names that begin with two underscores are Prometheus' own.
  private static func isName(_ name: String) -> Bool {
    func isLetter(_ byte: UInt8) -> Bool {
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20) || byte == UInt8(ascii: "_")
    }
    func isDigit(_ byte: UInt8) -> Bool {
      (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    }
    guard let first = name.utf8.first, isLetter(first), !name.hasPrefix("__") else { return false }
    return name.utf8.allSatisfy { isLetter($0) || isDigit($0) }
  }

  /// The first name that two of them have; nil where each has its own.
  package static func repeated(in labels: [MetricLabel]) -> String? {
    var seen: Set<String> = []
    return labels.first { !seen.insert($0.name).inserted }?.name
  }
}
