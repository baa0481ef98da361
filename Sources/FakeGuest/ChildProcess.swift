import CLinux
import Glibc
import Linux

/// Another program, killed and reaped when its owner lets it go.
package final class ChildProcess {
  /// Its process id, as long as this object lives.
  package let pid: CInt
  private var ended: CInt?

  /// Starts a program, found through `PATH` if its name has no slash.
  ///
  /// - Parameters:
  ///   - arguments: the program and its arguments.
  ///   - fds: our descriptors and the numbers they get in the child; nothing else is inherited
  ///     that is close-on-exec.
  package init(_ arguments: [String], fds: [(ours: CInt, theirs: CInt)] = []) throws(GuestError) {
    var strings = arguments.map { UnsafePointer(strdup($0)) }
    strings.append(nil)
    defer { for string in strings { Glibc.free(UnsafeMutablePointer(mutating: string)) } }
    let result = ph_spawn(strings, fds.map(\.ours), fds.map(\.theirs), CInt(fds.count))
    pid = try doing("starting \(arguments.first ?? "nothing")") { () throws(Errno) in
      try check(result, "posix_spawn")
    }
  }

  deinit {
    guard ended == nil else { return }
    kill(pid, SIGKILL)
    var status: CInt = 0
    _ = ph_wait(pid, 1, &status)
  }

  /// Its exit status, 128 + the signal's number if a signal ended it; nil while it runs.
  package var status: CInt? {
    if ended == nil {
      var status: CInt = 0
      if ph_wait(pid, 0, &status) == 1 { ended = status }
    }
    return ended
  }

  /// Sends a signal.
  package func signal(_ number: CInt) { if status == nil { kill(pid, number) } }

  /// Waits for its end.
  ///
  /// - Returns: its status, nil if it did not end in time.
  package func waitForEnd(milliseconds: Int) -> CInt? {
    let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
    while status == nil, Clock.now < deadline { usleep(1000) }
    return status
  }

  /// The path of the running program itself.
  package static var selfPath: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { text in
      guard let base = text.baseAddress, ph_self_path(base, 4096) == 0 else { return "" }
      return String(cString: base)
    }
  }
}

/// A directory for sockets and pictures, removed with what is in it.
package final class TemporaryDirectory {
  /// Its path.
  package let path: String

  /// Makes one under `TMPDIR`, or /tmp.
  package init() throws(GuestError) {
    let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
    var name = Array("\(parent)/pinhole-XXXXXX".utf8CString)
    guard mkdtemp(&name) != nil else {
      throw .system("a directory in \(parent)", Errno(errno, "mkdtemp"))
    }
    path = name.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? "" }
  }

  deinit {
    guard let directory = opendir(path) else { return }
    while let entry = readdir(directory) {
      let name = withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != ".", name != ".." { unlink("\(path)/\(name)") }
    }
    closedir(directory)
    rmdir(path)
  }

  /// The path of something in it.
  package func file(_ name: String) -> String { "\(path)/\(name)" }
}

/// Reads and writes whole files.
package enum WholeFile {
  /// Writes bytes to a new or truncated file.
  package static func write(_ bytes: [UInt8], to path: String) throws(GuestError) {
    let fd = try doing("writing \(path)") { () throws(Errno) in
      try OwnedFD.open(path, O_WRONLY | O_CREAT | O_TRUNC)
    }
    var done = 0
    while done < bytes.count {
      let n = bytes.withUnsafeBytes { p in
        Glibc.write(fd.raw, p.baseAddress.map { $0 + done }, bytes.count - done)
      }
      guard n > 0 else { throw .system("writing \(path)", Errno(errno, "write")) }
      done += n
    }
  }

  /// Reads a file to its end.
  package static func read(_ path: String) throws(GuestError) -> [UInt8] {
    let fd = try doing("reading \(path)") { () throws(Errno) in try OwnedFD.open(path, O_RDONLY) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let n = Glibc.read(fd.raw, &chunk, chunk.count)
      guard n >= 0 else { throw .system("reading \(path)", Errno(errno, "read")) }
      if n == 0 { return bytes }
      bytes += chunk.prefix(n)
    }
  }
}
