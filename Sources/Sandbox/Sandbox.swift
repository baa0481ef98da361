import CLinux
import Glibc
import Linux

/// What a process gives up before it serves anybody, in two steps around the start of its
/// threads: ``confine(removable:withoutLandlock:)`` before, ``restrictCalls(to:mode:)`` after.
///
/// Needs no privilege.
public enum Sandbox {
  /// How much of it applies.
  public enum Mode: String, CaseIterable, Sendable {
    /// All of it; a call outside the policy ends the process.
    case on
    /// None of it.
    case off
    /// All of it, except that calls outside the policy are logged by the kernel (audit(8)) and let
    /// through.
    case log
  }

  /// Why the process could not be confined.
  public struct Failure: Error, CustomStringConvertible, Sendable {
    /// The step that failed.
    public let step: String
    /// What the kernel said.
    public let cause: Errno

    /// What failed and what the operator can do.
    public var description: String {
      "\(step): \(cause); --sandbox off runs without any sandbox"
    }
  }

  /// What keeps the process from files that it has not opened.
  public enum Files: Equatable, Sendable, CustomStringConvertible {
    /// Landlock, with the version of its ABI.
    case landlock(abi: Int)
    /// The root is an empty directory.
    case emptyRoot
    /// Only the refusal of the system calls that open files.
    case callsOnly

    /// For the log.
    public var description: String {
      switch self {
      case .landlock(let abi): "Landlock (ABI \(abi))"
      case .emptyRoot: "an empty root directory"
      case .callsOnly: "no Landlock in this kernel and no right to change the root directory"
      }
    }
  }

  /// Gives up new privileges, the file system and all capabilities, for this thread and those
  /// that it starts later.
  ///
  /// - Parameters:
  ///   - directories: where files may still be removed, with Landlock.
  ///   - keepsRoot: paths of sockets stay reachable where the kernel has no Landlock.
  ///   - withoutLandlock: as on a kernel that has none.
  /// - Returns: what keeps the process from files.
  public static func confine(
    removingFilesIn directories: [String] = [], keepsRoot: Bool = false,
    withoutLandlock: Bool = false
  ) throws(Failure) -> Files {
    try step("giving up new privileges") { () throws(Errno) in
      try check(ph_set_no_new_privileges(), "prctl(PR_SET_NO_NEW_PRIVS)")
    }
    let files = try confineFiles(
      directories, withoutLandlock ? nil : Landlock.abi, keepsRoot: keepsRoot)
    try step("dropping capabilities") { () throws(Errno) in
      try check(ph_drop_capabilities(), "capset")
    }
    return files
  }

  /// As ``confine(removingFilesIn:withoutLandlock:)``, but files can still be read: for a process
  /// that has libraries to load before it gives up the rest.
  ///
  /// - Parameter devices: devices, or directories of them, that may be written and controlled.
  public static func confineToReading(devices: [String]) throws(Failure) {
    try step("giving up new privileges") { () throws(Errno) in
      try check(ph_set_no_new_privileges(), "prctl(PR_SET_NO_NEW_PRIVS)")
    }
    if let abi = Landlock.abi {
      try step("denying changes to files") { () throws(Errno) in
        try Landlock.restrictToReading(devices: devices, abi: abi)
      }
    }
    try step("dropping capabilities") { () throws(Errno) in
      try check(ph_drop_capabilities(), "capset")
    }
  }

  /// Permits only the system calls of a policy from now on, in all threads.
  public static func restrictCalls(to policy: CallPolicy, mode: Mode) throws(Failure) {
    guard mode != .off else { return }
    guard hasCallFilters else {
      throw Failure(
        step: "filtering system calls", cause: Errno(ENOSYS, "prctl(PR_GET_SECCOMP)"))
    }
    try step("filtering system calls") { () throws(Errno) in
      try CallFilter.install(policy, otherwise: mode == .log ? .log : .kill)
    }
  }

  /// Whether the kernel has seccomp filters.
  public static var hasCallFilters: Bool { ph_has_seccomp() == 1 }

  /// Whether this thread has any capability.
  public static var hasCapabilities: Bool { ph_capabilities() != 0 }

  /// Whether this thread can gain privileges through execve(2).
  public static var canGainPrivileges: Bool { ph_has_no_new_privileges() != 1 }

  /// The directory that a path's last component is in.
  public static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  private static func confineFiles(
    _ directories: [String], _ abi: Int?, keepsRoot: Bool
  ) throws(Failure) -> Files {
    if let abi {
      try step("denying access to files") { () throws(Errno) in
        try Landlock.restrict(removingFilesIn: directories, abi: abi)
      }
      return .landlock(abi: abi)
    }
    if keepsRoot { return .callsOnly }
    return ph_enter_empty_root() == 0 ? .emptyRoot : .callsOnly
  }

  private static func step(
    _ name: String, _ body: () throws(Errno) -> Void
  ) throws(Failure) {
    do throws(Errno) { try body() } catch { throw Failure(step: name, cause: error) }
  }
}
