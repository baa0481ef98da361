import PinholeProtocol

/// Names of the protocol's numbers, for people.
package enum WireName {
  /// The name of a message type in the C header without its prefix.
  package static func message(_ type: UInt32) -> String {
    switch pinhole_message(rawValue: type) {
    case PINHOLE_CONSUMER_HELLO: return "CONSUMER_HELLO"
    case PINHOLE_FRAME_DONE: return "FRAME_DONE"
    case PINHOLE_BUFFER_CLOSED: return "BUFFER_CLOSED"
    case PINHOLE_TIMELINE_ADD: return "TIMELINE_ADD"
    case PINHOLE_TIMELINE_REMOVE: return "TIMELINE_REMOVE"
    case PINHOLE_PRODUCER_HELLO: return "PRODUCER_HELLO"
    case PINHOLE_OUTPUT: return "OUTPUT"
    case PINHOLE_BUFFER_ADD: return "BUFFER_ADD"
    case PINHOLE_FRAME: return "FRAME"
    case PINHOLE_BUFFER_REMOVE: return "BUFFER_REMOVE"
    case PINHOLE_CURSOR: return "CURSOR"
    case PINHOLE_ERROR: return "ERROR"
    default: return "message 0x" + String(type, radix: 16)
    }
  }

  /// The name of an error code in the C header without its prefix.
  package static func error(_ code: UInt32) -> String {
    switch pinhole_error_code(rawValue: code) {
    case PINHOLE_ERROR_VERSION: return "VERSION"
    case PINHOLE_ERROR_MALFORMED: return "MALFORMED"
    case PINHOLE_ERROR_UNEXPECTED: return "UNEXPECTED"
    case PINHOLE_ERROR_DENIED: return "DENIED"
    case PINHOLE_ERROR_TIMEOUT: return "TIMEOUT"
    case PINHOLE_ERROR_TOO_SLOW: return "TOO_SLOW"
    case PINHOLE_ERROR_LIMIT: return "LIMIT"
    case PINHOLE_ERROR_UNSUPPORTED: return "UNSUPPORTED"
    case PINHOLE_ERROR_SHUTDOWN: return "SHUTDOWN"
    default: return "error \(code)"
    }
  }
}
