import FrameWire
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

  /// An `ERROR` message.
  public struct Refusal: Sendable, Equatable {
    /// `PINHOLE_ERROR_*`.
    public let code: UInt32
    /// The type of our message at fault, 0 if none is.
    public let messageType: UInt32
    /// Bytes from the start of our message to the field at fault.
    public let field: UInt32?
    /// What the producer wrote for people.
    public let text: String
  }

  /// What failed, and on what.
  public var description: String {
    switch self {
    case .cannotConnect(let path, let error): return "cannot connect to \(path): \(error.message)"
    case .closed: return "the producer closed the connection"
    case .refused(let refusal):
      return "the producer refused: \(WireName.error(refusal.code)): \(refusal.text)"
    case .malformed(let message, let field, let text):
      let place = field.map { " at byte \($0)" } ?? ""
      return "the producer sent a bad \(message)\(place): \(text)"
    case .system(let error): return error.description
    }
  }
}
