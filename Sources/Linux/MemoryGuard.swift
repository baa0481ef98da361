import CLinux

/// Keeps a process alive that touches a mapping whose file was truncated, or whose huge pages
/// have run out.
///
/// The first such access replaces the whole mapping by zeros of our own, so that whatever was
/// being copied is copied to its end. Whoever uses the mapping looks for ``isLost`` at a quiet
/// moment, and drops it.
public final class MemoryGuard: Sendable {
  private let slot: CInt

  /// Guards a mapping until ``end()``, for all threads of the process.
  ///
  /// - Parameters:
  ///   - base: its first byte, as mmap(2) returned it.
  ///   - count: its length in bytes.
  /// - Throws: `ENOSPC` when some hundred mappings are guarded already.
  public init(_ base: UnsafeMutableRawPointer, _ count: Int) throws(Errno) {
    slot = try check(ph_guard_add(base, count), "sigaction(SIGBUS)")
  }

  /// Installs the handler and opens its file of zeros now, rather than with the first mapping.
  ///
  /// - Throws: errors of sigaction(2) and memfd_create(2).
  public static func prepare() throws(Errno) { try check(ph_guard_prepare(), "sigaction(SIGBUS)") }

  /// Whether the mapping was replaced.
  public var isLost: Bool { ph_guard_is_lost(slot) != 0 }

  /// Ends the guard; to be called once, before the mapping goes.
  public func end() { ph_guard_remove(slot) }

  /// How many mappings this process has lost so far: a cheap question for each turn of a loop.
  public static var losses: UInt64 { ph_guard_losses() }
}
