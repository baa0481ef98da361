import Command
import FakeGuest
import Linux

/// Leaves a table or a plot in a file.
func save(_ text: String, as path: String) throws(GuestError) {
  try withFile { () throws(WholeFile.Failure) in
    try WholeFile.write(Array(text.utf8), to: path)
  }
}

/// The middle of some samples, nil if there are none.
func median(_ samples: [Double]) -> Double? {
  guard !samples.isEmpty else { return nil }
  let sorted = samples.sorted()
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/// A number with so many digits behind the point.
func decimal(_ value: Double, _ digits: Int) -> String {
  var scale = 1.0
  for _ in 0..<digits { scale *= 10 }
  let whole = Int((value * scale).rounded())
  let text = String(abs(whole))
  let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
  let sign = whole < 0 ? "-" : ""
  guard digits > 0 else { return sign + padded }
  return "\(sign)\(padded.dropLast(digits)).\(padded.suffix(digits))"
}

/// How far a measurement has come, on a terminal alone.
enum Progress {
  private static let terminal = Terminal.progress

  static func show(_ text: String) { terminal?.show(progress: text) }
  static func end() { terminal?.endProgress() }
}

/// A table of Markdown.
struct Table {
  let title: String
  let columns: [String]
  var rows: [[String]] = []

  init(title: String, columns: [String]) {
    self.title = title
    self.columns = columns
  }

  /// The table with its title and lines of facts above it.
  func markdown(_ facts: [String]) -> String {
    var text = "# \(title)\n\n"
    for fact in facts { text += "- \(fact)\n" }
    text += "\n| \(columns.joined(separator: " | ")) |\n"
    text += "|" + columns.map { _ in "---|" }.joined() + "\n"
    for row in rows { text += "| \(row.joined(separator: " | ")) |\n" }
    return text
  }
}

/// Groups of horizontal bars, as SVG.
struct Plot {
  let title: String
  let series: [String]
  let groups: [(name: String, values: [Double?])]

  private static let colors = ["#2a78b8", "#d9822b", "#9aa5ab"]

  /// The picture; values are nanoseconds and printed as milliseconds.
  var svg: String {
    let bar = 16
    let left = 320
    let width = 520
    let groupHeight = bar * series.count + 18
    let height = 70 + groups.count * groupHeight
    let most = max(groups.flatMap { $0.values.compactMap { $0 } }.max() ?? 1, 1)
    var text = """
      <svg xmlns="http://www.w3.org/2000/svg" width="\(left + width + 90)" height="\(height)" \
      font-family="sans-serif" font-size="13">
      <rect width="100%" height="100%" fill="white"/>
      <text x="12" y="24" font-size="16">\(escaped(title))</text>

      """
    for (index, name) in series.enumerated() {
      let x = 12 + index * 220
      text +=
        "<rect x=\"\(x)\" y=\"36\" width=\"12\" height=\"12\" fill=\"\(Self.colors[index % 3])\"/>"
      text += "<text x=\"\(x + 18)\" y=\"47\">\(escaped(name))</text>\n"
    }
    for (row, group) in groups.enumerated() {
      let top = 62 + row * groupHeight
      text += "<text x=\"12\" y=\"\(top + groupHeight / 2)\">\(escaped(group.name))</text>\n"
      for (index, value) in group.values.enumerated() {
        guard let value else { continue }
        let y = top + index * bar
        let long = max(1, Int(Double(width) * value / most))
        text +=
          "<rect x=\"\(left)\" y=\"\(y)\" width=\"\(long)\" height=\"\(bar - 3)\" fill=\"\(Self.colors[index % 3])\"/>"
        text +=
          "<text x=\"\(left + long + 6)\" y=\"\(y + 11)\" font-size=\"11\">\(decimal(value / 1_000_000, 2))</text>\n"
      }
    }
    return text + "</svg>\n"
  }

  private func escaped(_ text: String) -> String {
    text.map { character in
      switch character {
      case "&": "&amp;"
      case "<": "&lt;"
      case ">": "&gt;"
      default: String(character)
      }
    }.joined()
  }
}
