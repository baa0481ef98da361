import CLinux
import Glibc

/// Lines to standard error, for which nobody waits: a pipe, a socket or a terminal that is not read
/// loses lines, which are counted.
public enum LogOutput {
  private struct State {
    /// Standard error, or a description of our own of the same pipe or terminal: the flag
    /// `O_NONBLOCK` of the one that we got belongs to others too.
    var fd: CInt = 2
    var isSocket = false
    /// Whether a write may wait, so that room is looked for first.
    var mayWait = false
    var dropped = 0
  }

  /// Most bytes of a line: what a pipe takes as a whole (pipe(7), `PIPE_BUF`).
  private static let longest = 4096
  private static let state = Locked(State())

  /// Finds out what standard error is. Before a sandbox: it may have to open it once more.
  public static func prepare() {
    var facts = stat()
    guard fstat(2, &facts) == 0 else { return }
    state.withLock { state in
      switch facts.st_mode & S_IFMT {
      case S_IFSOCK: state.isSocket = true
      case S_IFIFO, S_IFCHR:
        let own = open(
          "/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | O_APPEND)
        if own >= 0 { state.fd = own } else { state.mayWait = true }
      default: break
      }
    }
  }

  /// Writes one line, with everything in it escaped that is not to be printed.
  public static func write(_ text: String) {
    let line = bytes(of: text)
    state.withLock { state in
      if state.dropped > 0 {
        let notice = bytes(of: "pinhole: \(state.dropped) lines dropped, for nobody read them")
        guard put(notice, state) else { return state.dropped += 1 }
        state.dropped = 0
      }
      if !put(line, state) { state.dropped += 1 }
    }
  }

  private static func bytes(of text: String) -> [UInt8] {
    Array(text.printable.utf8.prefix(longest - 1)) + [UInt8(ascii: "\n")]
  }

  private static func put(_ bytes: [UInt8], _ state: State) -> Bool {
    bytes.withUnsafeBytes { bytes in
      if state.isSocket {
        return send(state.fd, bytes.baseAddress, bytes.count, ph_MSG_DONTWAIT) == bytes.count
      }
      if state.mayWait, ph_poll_now(state.fd, Int16(POLLOUT)) != 1 { return false }
      return Glibc.write(state.fd, bytes.baseAddress, bytes.count) == bytes.count
    }
  }
}

extension String {
  /// The text as one line that cannot change how others look: control characters, those that
  /// change the direction of writing, and ends of lines are shown as escapes.
  public var printable: String {
    if utf8.allSatisfy({ (0x20...0x7e).contains($0) }) { return self }
    var text = String.UnicodeScalarView()
    for scalar in unicodeScalars {
      switch scalar.properties.generalCategory {
      case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned:
        let escape = scalar == "\n" ? "\\n" : scalar == "\t" ? "\\t" : scalar.escaped
        text.append(contentsOf: escape.unicodeScalars)
      default: text.append(scalar)
      }
    }
    return String(text)
  }
}

extension Unicode.Scalar {
  /// For example `\u{1b}`.
  fileprivate var escaped: String { "\\u{" + String(value, radix: 16) + "}" }
}
