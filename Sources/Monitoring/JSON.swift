/// A JSON value (RFC 8259), as far as the state of a process needs it.
///
/// Numbers are whole; others are kept as they are written.
package indirect enum JSON: Equatable, Sendable {
  case null
  case bool(Bool)
  case number(UInt64)
  /// A number that is no unsigned integer of 64 bits.
  case otherNumber(String)
  case string(String)
  case array([JSON])
  case object([Member])

  /// A name with its value; the order stays.
  package struct Member: Equatable, Sendable {
    package var name: String
    package var value: JSON

    package init(_ name: String, _ value: JSON) {
      self.name = name
      self.value = value
    }
  }

  /// The member of an object; nil for others, and where there is none.
  package subscript(_ name: String) -> JSON? { members?.first { $0.name == name }?.value }

  /// The members of an object.
  package var members: [Member]? { if case .object(let members) = self { members } else { nil } }
  /// The elements of an array.
  package var elements: [JSON]? { if case .array(let elements) = self { elements } else { nil } }
  /// A whole number.
  package var number: UInt64? { if case .number(let number) = self { number } else { nil } }
  /// A text.
  package var string: String? { if case .string(let string) = self { string } else { nil } }
  /// True or false.
  package var bool: Bool? { if case .bool(let bool) = self { bool } else { nil } }

  /// One line, without spaces; ASCII alone, so that no terminal and no pipe changes it.
  package var text: String {
    var out = ""
    write(to: &out)
    return out
  }

  private func write(to out: inout String) {
    switch self {
    case .null: out += "null"
    case .bool(let value): out += value ? "true" : "false"
    case .number(let value): out += "\(value)"
    case .otherNumber(let text): out += text
    case .string(let text): Self.write(text, to: &out)
    case .array(let elements):
      out += "["
      for (index, element) in elements.enumerated() {
        if index > 0 { out += "," }
        element.write(to: &out)
      }
      out += "]"
    case .object(let members):
      out += "{"
      for (index, member) in members.enumerated() {
        if index > 0 { out += "," }
        Self.write(member.name, to: &out)
        out += ":"
        member.value.write(to: &out)
      }
      out += "}"
    }
  }

  private static func write(_ text: String, to out: inout String) {
    out += "\""
    for unit in text.utf16 {
      switch unit {
      case 0x22: out += "\\\""
      case 0x5c: out += "\\\\"
      case 0x20...0x7e: out.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
      default:
        let digits = String(unit, radix: 16)
        out += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      }
    }
    out += "\""
  }
}
