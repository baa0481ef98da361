import Glibc
import Linux

/// Tells when the node of a device is changed or removed, inotify(7). devtmpfs removes it when the
/// device is unplugged or loses its driver.
public final class NodeWatch {
  /// Readable after a change.
  public let fd: OwnedFD

  /// Watches a path such as `/dev/dri/card0`.
  ///
  /// - Throws: `ENOENT` where there is no such node, and others of inotify_add_watch(2).
  public init(_ path: String) throws(Errno) {
    let raw = inotify_init1(CInt(IN_NONBLOCK) | CInt(IN_CLOEXEC))
    guard raw >= 0 else { throw Errno(errno, "inotify_init1") }
    fd = OwnedFD(adopting: raw)
    guard inotify_add_watch(raw, path, UInt32(IN_ATTRIB | IN_DELETE_SELF)) >= 0 else {
      throw Errno(errno, "inotify_add_watch")
    }
  }

  /// Reads what has come, so that the descriptor is not readable any more.
  public func drain() {
    var events = [UInt8](repeating: 0, count: 4096)
    while read(fd.raw, &events, events.count) > 0 {}
  }
}
