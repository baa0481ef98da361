import Monitoring

/// The options of a QEMU that runs, as /proc has its command line.
struct QEMUCommandLine: Equatable {
  /// One option, such as `-object memory-backend-memfd,id=mem,share=on`.
  struct Option: Equatable {
    /// Without dashes, such as `object`.
    var name: String
    /// The first part, where it has no name: `memory-backend-memfd`.
    var kind: String
    /// The others: `id`, `share`.
    var properties: [String: String]

    /// `on`, `true` and `yes`, as QEMU reads them; nil where it is not given.
    func flag(_ property: String) -> Bool? {
      properties[property].map { ["on", "yes", "true", "y"].contains($0) }
    }
  }

  var options: [Option] = []

  /// Reads the words of a command line, the program's name among them.
  init(_ words: [String]) {
    var rest = words.dropFirst()
    while let word = rest.popFirst() {
      guard word.hasPrefix("-") else { continue }
      let name = String(word.drop { $0 == "-" })
      // Options without a value are followed by another option, or by nothing.
      guard let value = rest.first, !value.hasPrefix("-") || value == "-" else {
        options.append(Option(name: name, kind: "", properties: [:]))
        continue
      }
      rest.removeFirst()
      options.append(Self.read(value, of: name))
    }
  }

  /// All options of a name.
  func all(_ name: String) -> [Option] { options.filter { $0.name == name } }

  /// libvirt writes JSON, people write `kind,name=value`, with `,,` for a comma in a value.
  private static func read(_ text: String, of name: String) -> Option {
    if text.hasPrefix("{"), let members = JSON(parsing: text)?.members {
      var option = Option(name: name, kind: "", properties: [:])
      for member in members {
        let value: String? =
          switch member.value {
          case .string(let text): text
          case .bool(let flag): flag ? "on" : "off"
          case .number(let number): "\(number)"
          default: nil
          }
        guard let value else { continue }
        let isKind = ["qom-type", "driver", "backend", "type"].contains(member.name)
        if isKind { option.kind = value } else { option.properties[member.name] = value }
      }
      return option
    }
    var option = Option(name: name, kind: "", properties: [:])
    for (index, part) in split(text).enumerated() {
      if let equals = part.firstIndex(of: "=") {
        option.properties[String(part[..<equals])] = String(part[part.index(after: equals)...])
      } else if index == 0 {
        option.kind = part
      } else {
        option.properties[part] = "on"
      }
    }
    return option
  }

  private static func split(_ text: String) -> [String] {
    var parts = [""]
    var wasComma = false
    for letter in text {
      if letter == "," {
        if wasComma { parts[parts.count - 1] += "," }
        wasComma.toggle()
        continue
      }
      if wasComma { parts.append("") }
      wasComma = false
      parts[parts.count - 1].append(letter)
    }
    return parts
  }
}
