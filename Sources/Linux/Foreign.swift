import CLinux
import Glibc

/// Questions about descriptors from outside, and what is done with them.
///
/// A descriptor can be anything, and its file's owner decides how long many calls on it take. This
/// is every call that the daemon makes on one, and why it cannot wait:
///
/// | call | on | why it does not wait |
/// |---|---|---|
/// | recvmsg(2) `MSG_DONTWAIT` | sockets of a connection | the flag; what the kernel would close for want of numbers or of room is taken instead (``Descriptors``, ``UnixSocket/receive(_:into:fds:maxFDs:dontWait:from:)``) |
/// | sendmsg(2) `MSG_DONTWAIT` | the same | the flag, whatever `O_NONBLOCK` says |
/// | sendfile(2) | QEMU's display socket | `O_NONBLOCK` is set and looked at before; an owner who clears it in between is interrupted by the ``Watchdog`` once, and gets copies by sendmsg(2) from then on |
/// | accept4(2) | our listening sockets | they are ours and nonblocking |
/// | shutdown(2) | the same | marks both ends; drops nothing that is queued |
/// | close(2) | anything, and our listening sockets, with which goes what nobody accepted | in threads of its own (``Closers``), TCP without lingering |
/// | getsockopt(2) `SO_DOMAIN`, `SO_TYPE`, `SO_PEERCRED` | anything | answered by the socket layer without a lock, `ENOTSOCK` for all else |
/// | fcntl(2) `F_GET_SEALS`, `F_DUPFD_CLOEXEC` | anything | answered without asking the file's driver |
/// | statx(2) `AT_STATX_DONT_SYNC` | anything | tells what is in memory; a server is not asked |
/// | fstatfs(2), fstat(2), mmap(2), madvise(2), access | files with seals or on a block device (``FileFacts``) | the kernel's own memory or disk: nobody outside answers for them |
/// | fstatfs(2), lseek(2) | files without a type, such as dma-bufs (`HostExport`) | the kernel's own: nobody outside answers for them |
/// | preadv2(2) `RWF_NOWAIT` | files without an inode of their own (``Foreign/isEventFD(_:)``) | the flag; `EOPNOTSUPP` where a file does not know it |
/// | poll(2) without time, epoll_ctl(2) | eventfds, sync_files, Unix sockets | looks at the kernel's own counters and queues |
/// | write(2) | eventfds | only after poll(2) has found room; an owner who fills the counter in between is interrupted by the ``Watchdog``, and the interrupt is not delivered |
/// | ioctl(2) `SYNC_IOC_*` | files without an inode of their own | not a driver's on any other file system; asks a fence's state |
/// | ioctl(2) `DRM_IOCTL_SYNCOBJ_*` | character devices of DRM | only requests that do not wait for fences |
public enum Foreign {
  /// Ours, to compare others with; nil where the process has run out of descriptors at the start.
  private static let sample = (try? check(ph_eventfd(0), "eventfd")) ?? -1

  /// Opens what the questions need, before a sandbox may deny it.
  public static func prepare() { _ = sample }

  /// Whether a file is one of the kernel's own without an inode of its own, such as an eventfd or
  /// a sync_file.
  public static func isAnonymous(_ fd: CInt) -> Bool {
    ph_is_anonymous(fd, sample) == 1
  }

  /// Whether a descriptor is an eventfd, which loses its count by the question.
  public static func isEventFD(_ fd: CInt) -> Bool {
    var count: UInt64 = 0
    let result = isAnonymous(fd) ? ph_foreign_event_drain(fd, &count) : -EINVAL
    // Before Linux 5.9 an eventfd does not know RWF_NOWAIT.
    return result >= 0 || result == -EOPNOTSUPP
  }

  /// Takes an eventfd's count, to be told of the next one.
  public static func drain(_ event: CInt) {
    var count: UInt64 = 0
    _ = ph_foreign_event_drain(event, &count)
  }

  /// Adds one to an eventfd that its owner may use as he likes.
  ///
  /// - Returns: false where the owner had it wait, or took care that it fails.
  @discardableResult
  public static func signal(_ event: CInt) -> Bool { ph_foreign_event_signal(event) == 0 }
}

/// How many descriptors this process may have.
public enum Descriptors {
  /// More are not asked for, whatever the hard limit is.
  private static let most: UInt32 = 65_536
  /// Kept for what a message brings: `SCM_MAX_FD` of the kernel, and some that stay.
  private static let reserve: UInt32 = 320

  /// Raises the soft limit to the hard one (getrlimit(2), `RLIMIT_NOFILE`) and keeps a reserve for
  /// descriptors that come with messages, so that the kernel never has to close some itself.
  ///
  /// - Returns: how many there are beside the reserve.
  @discardableResult
  public static func reserveForMessages() throws(Errno) -> Int {
    Int(try check(ph_reserve_descriptors(most, reserve), "setrlimit(RLIMIT_NOFILE)"))
  }

  /// Whether a number is of the reserve: only for what cannot be refused.
  public static func isReserve(_ fd: CInt) -> Bool {
    let first = ph_ordinary_descriptors()
    return first > 0 && fd >= first
  }
}
