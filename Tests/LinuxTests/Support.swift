import Glibc
import Linux

/// One end of a pair, to be closed at any moment.
final class End {
  private var fd: SharedFD?
  init(_ fd: consuming OwnedFD) { self.fd = SharedFD(fd) }
  var raw: CInt { fd?.raw ?? -1 }
  func close() { fd = nil }
}

/// Two connected sockets.
func pair(_ kind: UnixSocket.Kind) throws -> (End, End) {
  var ends: (End, End)?
  let pair = try UnixSocket.Pair(kind)
  pair.split { ends = (End($0), End($1)) }
  guard let ends else { throw Errno(EBADF, "socketpair") }
  return ends
}

/// Adds one to an eventfd.
func signal(_ event: SharedFD) {
  var one: UInt64 = 1
  _ = write(event.raw, &one, 8)
}

/// Whether a descriptor is open in this process.
func isOpen(_ fd: CInt) -> Bool { fcntl(fd, F_GETFD) >= 0 }

/// Device and inode behind a descriptor.
func identity(_ fd: CInt) throws -> FileFacts.Identity { try FileFacts(of: fd).identity }
