import CLinux
import Glibc

/// Another program, killed and reaped when its owner lets it go.
public final class ChildProcess {
  /// Its process id, as long as this object lives.
  public let pid: CInt
  private var ended: CInt?

  /// Starts a program, found through `PATH` if its name has no slash.
  ///
  /// - Parameters:
  ///   - arguments: the program and its arguments.
  ///   - fds: our descriptors and the numbers they get in the child; nothing else is inherited
  ///     that is close-on-exec.
  /// - Throws: errors of posix_spawn(3).
  public init(_ arguments: [String], fds: [(ours: CInt, theirs: CInt)] = []) throws(Errno) {
    var strings = arguments.map { UnsafePointer(strdup($0)) }
    strings.append(nil)
    defer { for string in strings { Glibc.free(UnsafeMutablePointer(mutating: string)) } }
    let result = ph_spawn(strings, fds.map(\.ours), fds.map(\.theirs), CInt(fds.count))
    pid = try check(result, "posix_spawn")
  }

  deinit {
    guard ended == nil else { return }
    kill(pid, SIGKILL)
    var status: CInt = 0
    _ = ph_wait(pid, 1, &status)
  }

  /// Its exit status, 128 + the signal's number if a signal ended it; nil while it runs.
  public var status: CInt? {
    if ended == nil {
      var status: CInt = 0
      if ph_wait(pid, 0, &status) == 1 { ended = status }
    }
    return ended
  }

  /// Descriptors that it has open now; 0 once it has ended.
  public var descriptorCount: Int {
    (try? Folder.names(in: "/proc/\(pid)/fd"))?.count ?? 0
  }

  /// Sends a signal.
  public func signal(_ number: CInt) { if status == nil { kill(pid, number) } }

  /// Waits for its end.
  ///
  /// - Returns: its status, nil if it did not end in time.
  public func waitForEnd(milliseconds: Int) -> CInt? {
    let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
    while status == nil, Clock.now < deadline { usleep(1000) }
    return status
  }

  /// The path of the running program itself.
  public static var selfPath: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { text in
      guard let base = text.baseAddress, ph_self_path(base, 4096) == 0 else { return "" }
      return String(cString: base)
    }
  }
}
