import Glibc

extension Errno {
  /// What the operator can do when a Unix socket cannot be connected to, `"; …"`; empty where the
  /// error itself says it.
  ///
  /// - Parameters:
  ///   - server: the command that listens there, for example `pinhole serve --frames-socket PATH`.
  ///   - access: the option with which it lets others in, if there is one.
  public func adviceToConnect(server: String, access: String? = nil) -> String {
    switch code {
    case ENOENT, ECONNREFUSED: "; start `\(server)`, or give the path that it was started with"
    case EACCES, EPERM:
      "; run this as the user that owns the socket"
        + (access.map { ", or start `\(server)` with \($0)" } ?? "")
    case EPROTOTYPE, ENOTSOCK: "; it is for something else: give what `\(server)` listens on"
    case EAGAIN, ETIMEDOUT: "; whoever listens there does not answer: see whether `\(server)` hangs"
    default: ""
    }
  }
}
