/// Where viewers connect: this machine's own addresses, or a Unix socket.
public enum VNCAddress: Equatable, Sendable, CustomStringConvertible {
  /// A path; further outputs are at the path with `.1`, `.2` and so on behind it.
  case path(String)
  /// TCP on a numeric loopback address; further outputs are at the ports behind it.
  case loopback(String, port: UInt16)

  /// Reads `127.0.0.1:5900`, `[::1]:5900`, `localhost:5900`, or a path with a slash in it.
  ///
  /// - Returns: nil for anything else. Whether an address is this machine's alone is found out when
  ///   it is listened on.
  public init?(_ text: String) {
    if text.contains("/") {
      self = .path(text)
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...])
    else { return nil }
    var host = String(text[..<colon])
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = String(host.dropFirst().dropLast())
    } else if host.contains(":") {
      return nil
    }
    if host.isEmpty || host == "localhost" { host = "127.0.0.1" }
    self = .loopback(host, port: port)
  }

  /// Where an output is, the first one being 0.
  ///
  /// - Returns: nil when there is no such port.
  func of(output: Int) -> VNCAddress? {
    switch self {
    case .path(let path): return .path(output == 0 ? path : "\(path).\(output)")
    case .loopback(let host, let port):
      if port == 0 { return self }
      return UInt16(exactly: Int(port) + output).map { .loopback(host, port: $0) }
    }
  }

  /// As a command line takes it.
  public var description: String {
    switch self {
    case .path(let path): path
    case .loopback(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
  }
}
