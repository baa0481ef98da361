import Glibc
import Linux

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
    for name in (try? Folder.names(in: path)) ?? [] { unlink("\(path)/\(name)") }
    rmdir(path)
  }

  /// The path of something in it.
  package func file(_ name: String) -> String { "\(path)/\(name)" }
}
