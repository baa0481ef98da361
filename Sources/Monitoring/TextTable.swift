/// Rows of cells in columns as wide as their widest cell.
package struct TextTable {
  /// How a cell stands out, on a terminal that has colours.
  package enum Style: Equatable {
    case plain, head, good, warning, bad
  }

  /// A text in a column.
  package struct Cell {
    var text: String
    var style = Style.plain

    /// A text in a style.
    package init(_ text: String, _ style: Style = .plain) {
      self.text = text
      self.style = style
    }
  }

  /// Columns whose cells are numbers stand at the right.
  package var rightAligned: Set<Int> = []
  /// The cells of each row; the head is the first.
  package var rows: [[Cell]] = []

  /// A table without rows but its head.
  package init(_ head: [String], rightAligned: Set<Int> = []) {
    self.rightAligned = rightAligned
    rows = [head.map { Cell($0, .head) }]
  }

  /// A line for each row, without spaces at its end.
  ///
  /// - Parameters:
  ///   - width: longer lines are cut; 0 for any length.
  ///   - colours: whether cells are dressed up by ECMA-48 sequences.
  package func lines(width: Int = 0, colours: Bool = false) -> [String] {
    let columns = rows.map(\.count).max() ?? 0
    let widths = (0..<columns).map { column in
      rows.map { $0.indices.contains(column) ? $0[column].text.count : 0 }.max() ?? 0
    }
    return rows.map { row in
      var line = ""
      var used = 0
      var owed = 0
      for (column, cell) in row.enumerated() {
        let gap = widths[column] - cell.text.count
        if rightAligned.contains(column) { owed += gap }
        var text = cell.text
        if width > 0 { text = String(text.prefix(max(0, width - used - owed))) }
        if !text.isEmpty {
          line += String(repeating: " ", count: owed)
          line += colours ? cell.style.dressed(text) : text
          used += owed + text.count
          owed = 0
        }
        owed += (rightAligned.contains(column) ? 0 : gap) + 2
      }
      return line
    }
  }
}

extension TextTable.Style {
  /// A text in this style, and plain again behind it.
  func dressed(_ text: String) -> String {
    switch self {
    case .plain: text
    case .head: "\u{1b}[1m\(text)\u{1b}[0m"
    case .good: "\u{1b}[32m\(text)\u{1b}[0m"
    case .warning: "\u{1b}[33m\(text)\u{1b}[0m"
    case .bad: "\u{1b}[31m\(text)\u{1b}[0m"
    }
  }
}
