import CLinux
import Glibc
import Linux

/// A pipe that is full, and that nobody reads: standard error of a process whose log is stuck.
package final class FullPipe {
  private let reader: OwnedFD
  private let end: OwnedFD

  /// Makes one whose writers would wait.
  package init() throws(Errno) {
    var ends: [CInt] = [-1, -1]
    try retrying("pipe") { pipe(&ends) }
    reader = OwnedFD(adopting: ends[0])
    end = OwnedFD(adopting: ends[1])
    for fd in ends { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
    try UnixSocket.setNonblocking(ends[1], true)
    let rubbish = [UInt8](repeating: UInt8(ascii: "\n"), count: 4096)
    while write(ends[1], rubbish, rubbish.count) > 0 {}
    while write(ends[1], rubbish, 1) > 0 {}
    try UnixSocket.setNonblocking(ends[1], false)
  }

  /// Where to write.
  package var writer: CInt { end.raw }
}

/// Whether the kernel keeps descriptors out for us (`SO_PASSRIGHTS`, Linux 6.16).
package enum DescriptorRefusal {
  /// On older ones they come, and are closed.
  package static var isKnown: Bool {
    guard let pair = try? UnixSocket.Pair(.stream) else { return false }
    return ph_refuse_descriptors(pair.first.raw) == 0
  }
}
