import Glibc

/// What lies in directories.
public enum Folder {
  /// The names in a directory but `.` and `..`, in no order.
  ///
  /// - Throws: errors of opendir(3).
  public static func names(in path: String) throws(Errno) -> [String] {
    guard let directory = opendir(path) else { throw Errno(errno, "opendir") }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }

  /// Where a symbolic link leads, as it says itself; at most 4096 bytes of it.
  ///
  /// - Throws: errors of readlink(2).
  public static func target(of path: String) throws(Errno) -> String {
    var failure: Errno?
    let target = withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 1) { text in
      guard let base = text.baseAddress else { return "" }
      let count = readlink(path, base, text.count)
      if count < 0 { failure = Errno(errno, "readlink") }
      return String(decoding: text.prefix(max(0, count)), as: UTF8.self)
    }
    if let failure { throw failure }
    return target
  }

  /// What the descriptors of a process lead to, such as `/memfd:guest (deleted)`, by number: its
  /// /proc/PID/fd, proc_pid_fd(5). One that was closed meanwhile is left out.
  ///
  /// - Throws: errors of opendir(3), `EACCES` for another user's process.
  public static func descriptors(
    of process: Int32
  ) throws(Errno) -> [(path: String, target: String)] {
    let folder = "/proc/\(process)/fd"
    var found: [(path: String, target: String)] = []
    for name in try names(in: folder) {
      let path = "\(folder)/\(name)"
      if let target = try? target(of: path) { found.append((path, target)) }
    }
    return found
  }
}
