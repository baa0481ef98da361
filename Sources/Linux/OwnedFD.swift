import CLinux
import Glibc

/// A file descriptor with one owner; it is closed when its owner lets it go.
public struct OwnedFD: ~Copyable, Sendable {
  /// The descriptor's number, valid while this value lives.
  public let raw: CInt
  /// Who sent it, so that its close may wait; see ``Closers``.
  public let sender: Sender

  /// Takes over an open descriptor.
  ///
  /// - Parameter sender: who sent it, if it came from outside of this process.
  public init(adopting raw: CInt, from sender: Sender = .ourselves) {
    self.raw = raw
    self.sender = sender
    ph_saw_descriptor(raw)
  }

  deinit { Closers.close(raw, from: sender) }

  /// The same descriptor once it was found to be of a kind whose close never waits, such as an
  /// eventfd or a sync_file: it is closed at once from now on.
  public consuming func vouchedFor() -> OwnedFD { OwnedFD(adopting: release()) }

  /// Gives the descriptor up without closing it.
  public consuming func release() -> CInt {
    let number = raw
    discard self
    return number
  }

  /// A second descriptor of the same open file, close-on-exec.
  ///
  /// - Throws: `EMFILE` and others of fcntl(2) `F_DUPFD_CLOEXEC`.
  public borrowing func duplicate() throws(Errno) -> OwnedFD {
    try OwnedFD.duplicate(of: raw, from: sender)
  }

  /// A new owner for a copy of a descriptor that somebody else owns.
  public static func duplicate(
    of raw: CInt, from sender: Sender = .ourselves
  ) throws(Errno) -> OwnedFD {
    OwnedFD(
      adopting: try retrying("fcntl(F_DUPFD_CLOEXEC)") { fcntl(raw, F_DUPFD_CLOEXEC, 3) },
      from: sender)
  }

  /// Opens a path, close-on-exec.
  ///
  /// - Parameters:
  ///   - path: a file's path.
  ///   - flags: `O_RDONLY`, `O_RDWR` and so on, as in open(2).
  ///   - mode: permission bits for `O_CREAT`.
  public static func open(
    _ path: String, _ flags: CInt, mode: mode_t = 0o644
  ) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try retrying("open") { Glibc.open(path, flags | O_CLOEXEC, mode) })
  }
}

/// A descriptor that several holders share; closed after the last of them.
public final class SharedFD: Sendable {
  private let owned: OwnedFD

  /// Takes over a descriptor.
  public init(_ owned: consuming OwnedFD) { self.owned = owned }

  /// The descriptor's number, valid while this object lives.
  public var raw: CInt { owned.raw }

  /// Who sent it.
  public var sender: Sender { owned.sender }

  /// A second descriptor of the same open file, with an owner of its own.
  public func duplicate() throws(Errno) -> OwnedFD { try owned.duplicate() }
}
