import FrameProtocol
import Linux

/// Why a consumer's connection failed.
public enum FramesError: Error, CustomStringConvertible, Sendable {
  /// The socket cannot be reached.
  case cannotConnect(path: String, Errno)
  /// The producer is gone and gave no reason.
  case closed
  /// The producer ended the connection and said why.
  case refused(Refusal)
  /// The producer broke the protocol; the connection is closed.
  case malformed(message: String, field: UInt32?, text: String)
  /// A system call failed.
  case system(Errno)

  /// The pixels of a buffer cannot be read so.
  case unreadable(BufferName, String)
  /// The producer does not read: too many answers wait for it.
  case unread

  /// An `ERROR` message.
  public typealias Refusal = FrameProtocol.Refusal

  /// What failed, on what, and what the operator can do.
  public var description: String {
    switch self {
    case .cannotConnect(let path, let error):
      let server = "pinhole serve --frames-socket \(path)"
      return "cannot connect to \(path): \(error.message)"
        + error.adviceToConnect(server: server, access: "--frames-group")
    case .closed: return "the producer closed the connection"
    case .refused(let refusal):
      return "the producer refused: \(WireName.error(refusal.code)): \(refusal.text)"
    case .malformed(let message, let field, let text):
      let place = field.map { " at byte \($0)" } ?? ""
      return "the producer sent a bad \(message)\(place): \(text)"
    case .unreadable(let buffer, let text): return "buffer \(buffer) cannot be read: \(text)"
    case .unread: return "the producer does not read what it is told"
    case .system(let error): return error.description
    }
  }
}
