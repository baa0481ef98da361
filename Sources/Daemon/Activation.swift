import CLinux
import Command
import Glibc
import Linux

/// Listening sockets that systemd hands over (sd_listen_fds(3)): descriptors from 3 on.
///
/// What each is for follows from its kind: a stream is for the front-end, sequential packets are
/// for consumers of frames.
struct Activation {
  /// For QEMU.
  var frontEnd: SharedFD?
  /// For consumers of frames.
  var frames: SharedFD?

  /// Takes over what is meant for this process, and forgets about it for those that it starts.
  static func take() throws(Failure) -> Activation {
    var activation = Activation()
    defer { for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] { unsetenv(name) } }
    guard let pid = number("LISTEN_PID"), pid == getpid(), let count = number("LISTEN_FDS"),
      count > 0
    else { return activation }
    guard count <= 8 else { throw wrong("\(count) sockets are too many") }
    for raw in 3..<(3 + count) {
      _ = fcntl(raw, F_SETFD, FD_CLOEXEC)
      let fd = SharedFD(OwnedFD(adopting: raw, from: .connection()))
      guard isListening(raw) else {
        throw wrong("descriptor \(raw) is not a listening Unix socket")
      }
      do throws(Errno) { try UnixSocket.setNonblocking(raw, true) } catch {
        throw wrong("descriptor \(raw): \(error)")
      }
      if UnixSocket.isSocket(raw, kind: .stream) {
        guard activation.frontEnd == nil else {
          throw wrong("two stream sockets, and the front-end takes one")
        }
        activation.frontEnd = fd
      } else {
        guard activation.frames == nil else {
          throw wrong("two sockets of packets, and consumers of frames take one")
        }
        activation.frames = fd
      }
    }
    return activation
  }

  private static func wrong(_ what: String) -> Failure {
    Failure("LISTEN_FDS: \(what); the unit pinhole@.socket shows what is expected")
  }

  private static func number(_ name: String) -> CInt? {
    getenv(name).flatMap { CInt(String(cString: $0)) }
  }

  private static func isListening(_ fd: CInt) -> Bool {
    guard UnixSocket.isSocket(fd, kind: .stream) || UnixSocket.isSocket(fd, kind: .seqpacket) else {
      return false
    }
    var answer: CInt = 0
    var size = socklen_t(MemoryLayout<CInt>.size)
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &answer, &size) == 0 && answer == 1
  }
}
