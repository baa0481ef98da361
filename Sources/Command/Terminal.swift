import Glibc

/// A terminal that a person looks at.
package struct Terminal {
  /// Whether colours are wanted: NO_COLOR (no-color.org) is empty or not set, and TERM is not dumb.
  package let hasColours: Bool
  private let fd: CInt

  /// Standard output, if it is a terminal.
  package static var standardOutput: Terminal? { isatty(1) == 1 ? Terminal(1) : nil }

  /// Standard error for lines of progress: if it is a terminal, or if PINHOLE_PROGRESS=1 says that
  /// it ends at one, as that of a command in a VM does.
  package static var progress: Terminal? {
    isatty(2) == 1 || value("PINHOLE_PROGRESS") == "1" ? Terminal(2) : nil
  }

  private init(_ fd: CInt) {
    self.fd = fd
    hasColours = Self.value("NO_COLOR").isEmpty && Self.value("TERM") != "dumb"
  }

  /// A variable of the environment; empty where it is not set.
  private static func value(_ name: String) -> String {
    getenv(name).map { String(cString: $0) } ?? ""
  }

  /// Shows how far long work has come, in place of what was shown before.
  package func show(progress text: String) { write("\r\(text)\u{1b}[K") }

  /// Takes away what ``show(progress:)`` left.
  package func endProgress() { write("\r\u{1b}[K") }

  private func write(_ text: String) {
    var text = text
    // A terminal that takes nothing more shows a later state.
    _ = text.withUTF8 { Glibc.write(fd, $0.baseAddress, $0.count) }
  }

  /// How large it is now; 80x24 where that cannot be found out.
  package var size: (columns: Int, rows: Int) {
    var size = winsize()
    guard ioctl(fd, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0, size.ws_row > 0 else {
      return (80, 24)
    }
    return (Int(size.ws_col), Int(size.ws_row))
  }
}
