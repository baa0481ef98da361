import CLinux
import Glibc

/// A shared mapping of a file, unmapped when its owner lets it go.
public struct Mapping: ~Copyable, @unchecked Sendable {
  /// Page aligned start of the mapping.
  public let base: UnsafeMutableRawPointer
  /// Its length in bytes.
  public let count: Int
  private let guarded: MemoryGuard?

  /// Maps `count` bytes of a file, shared (mmap(2), `MAP_SHARED`).
  ///
  /// - Parameters:
  ///   - fd: the file.
  ///   - offset: start in the file in bytes, a multiple of the page size.
  ///   - count: length in bytes, more than zero.
  ///   - writable: `PROT_WRITE` beside `PROT_READ`.
  ///   - reserves: false leaves huge pages to be found when they are touched (`MAP_NORESERVE`).
  ///   - guarded: what the file no longer has reads as zeros instead of raising SIGBUS; see
  ///     ``isLost``.
  /// - Throws: `EINVAL` for a bad offset or length, and others of mmap(2).
  public init(
    fd: CInt, offset: UInt64, count: Int, writable: Bool, reserves: Bool = true,
    guarded: Bool = false
  ) throws(Errno) {
    guard count > 0, let start = off_t(exactly: offset) else { throw Errno(EINVAL, "mmap") }
    let protection = writable ? PROT_READ | PROT_WRITE : PROT_READ
    let flags = reserves ? MAP_SHARED : MAP_SHARED | MAP_NORESERVE
    guard let p = mmap(nil, count, protection, flags, fd, start), p != MAP_FAILED else {
      throw Errno(errno, "mmap")
    }
    let shield: MemoryGuard?
    do throws(Errno) { shield = guarded ? try MemoryGuard(p, count) : nil } catch {
      munmap(p, count)
      throw error
    }
    self.guarded = shield
    base = p
    self.count = count
  }

  deinit {
    guarded?.end()
    munmap(base, count)
  }

  /// Whether an access found a page that the file does not have. All of the mapping is private
  /// zeros since then.
  public var isLost: Bool { guarded?.isLost ?? false }

  /// The mapped bytes. They may change at any time: somebody else maps them too.
  public var bytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: base, count: count)
  }

  /// madvise(2) over a part of the mapping.
  public borrowing func advise(_ advice: CInt, offset: Int, count: Int) throws(Errno) {
    guard offset >= 0, count >= 0, offset <= self.count, count <= self.count - offset else {
      throw Errno(EINVAL, "madvise")
    }
    try check(ph_madvise(base + offset, count, advice), "madvise")
  }
}

/// The size of a base page in bytes.
public let pageSize = Int(sysconf(CInt(_SC_PAGESIZE)))
