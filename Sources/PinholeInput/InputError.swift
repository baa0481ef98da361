import Linux

/// Why the connection to `pinhole input` failed.
public enum InputError: Error, CustomStringConvertible, Sendable {
  /// The socket cannot be reached.
  case cannotConnect(path: String, Errno)
  /// The other side is gone and gave no reason.
  case closed
  /// The other side ended the connection and said why.
  case refused(code: UInt32, text: String)
  /// The other side broke the protocol.
  case malformed(String)
  /// More keys wait to be taken than ``InputClient/maxWaiting``.
  case notTaken
  /// A system call failed.
  case system(Errno)

  /// What failed, on what, and what the operator can do.
  public var description: String {
    switch self {
    case .cannotConnect(let path, let error):
      "cannot connect to the input socket \(path): \(error.message)"
        + error.adviceToConnect(
          server: "pinhole input --control-socket \(path)", access: "--control-group")
    case .closed: "pinhole input closed the connection"
    case .refused(_, let text): "pinhole input refused: \(text)"
    case .malformed(let text): "pinhole input sent a bad message: \(text)"
    case .notTaken: "pinhole input takes no more keys"
    case .system(let error): error.description
    }
  }
}
