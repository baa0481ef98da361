import CLinux
import Glibc

/// An eventfd(2): one side signals, the other polls and drains.
public struct EventFD: ~Copyable, Sendable {
  /// The descriptor; readable while signalled.
  public let fd: OwnedFD

  /// A new eventfd with a count of zero, nonblocking.
  public init() throws(Errno) {
    fd = OwnedFD(adopting: try check(ph_eventfd(0), "eventfd"))
  }

  /// Takes over an eventfd that came from somebody else.
  public init(adopting fd: consuming OwnedFD) { self.fd = fd }

  /// Wakes the other side. A full counter counts as awake.
  public borrowing func signal() { _ = ph_eventfd_signal(fd.raw) }

  /// Takes the count and sets it to zero; 0 if nothing was signalled.
  @discardableResult
  public borrowing func drain() -> UInt64 { ph_drain(fd.raw) }
}

/// The monotonic clock.
public enum Clock {
  /// Nanoseconds of `CLOCK_MONOTONIC`.
  public static var now: UInt64 { ph_monotonic_ns() }
  /// Nanoseconds that the calling thread has run (`CLOCK_THREAD_CPUTIME_ID`).
  public static var processor: UInt64 { ph_thread_ns() }
}

/// Signals as events.
public enum Signals {
  /// Blocks signals in this thread (and those it starts) and returns their signalfd(2).
  public static func descriptor(for signals: [CInt]) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try check(ph_signalfd(signals, CInt(signals.count)), "signalfd"))
  }

  /// The number of the next signal that came in through a ``descriptor(for:)``, 0 if none did.
  public static func next(from fd: CInt) -> CInt { CInt(truncatingIfNeeded: ph_signal(fd)) }

  /// A write to a closed socket returns EPIPE from now on.
  public static func ignoreSIGPIPE() { ph_ignore_sigpipe() }
}
