import Linux

/// What went wrong while playing a guest.
package enum GuestError: Error, CustomStringConvertible {
  /// A system call failed; the text says on what.
  case system(String, Errno)
  /// The peer closed the connection while this was under way.
  case closed(String)
  /// The peer said something that the protocol does not allow.
  case violation(String)
  /// Nothing came within the time given.
  case timedOut(String)
  /// The guest's memory or a ring has no room for this.
  case full(String)
  /// The device answered a command with an error.
  case refused(String, GPUResponse)
  /// The device or the machine lacks something this needs.
  case unsupported(String)

  /// What failed, on what.
  package var description: String {
    switch self {
    case .system(let what, let errno): return "\(what): \(errno)"
    case .closed(let what): return "the peer closed the connection during \(what)"
    case .violation(let what): return what
    case .timedOut(let what): return "no answer in time: \(what)"
    case .full(let what): return "no room for \(what)"
    case .refused(let what, let response): return "\(what) was refused: \(response)"
    case .unsupported(let what): return what
    }
  }
}

/// Names what a failed system call was for.
func doing<R>(
  _ what: @autoclosure () -> String, _ body: () throws(Errno) -> R
) throws(GuestError) -> R where R: ~Copyable {
  do throws(Errno) { return try body() } catch { throw .system(what(), error) }
}

extension ChildProcess {
  /// Starts a program, and names it when that fails.
  package static func start(
    _ arguments: [String], fds: [(ours: CInt, theirs: CInt)] = []
  ) throws(GuestError) -> ChildProcess {
    try doing("starting \(arguments.first ?? "nothing")") { () throws(Errno) in
      try ChildProcess(arguments, fds: fds)
    }
  }
}

/// Names the file that a call failed on.
package func withFile<R>(
  _ body: () throws(WholeFile.Failure) -> R
) throws(GuestError) -> R {
  do throws(WholeFile.Failure) { return try body() } catch {
    throw .system(error.path, error.errno)
  }
}
