import Linux

/// A file that holds guest RAM, mapped once however many regions show parts of it.
///
/// Buffers and regions name guest pages as (file, offset), never as addresses, so that a memory
/// table which comes and goes under live rings leaves them valid. The mapping lives as long as
/// anybody holds this object.
public final class GuestFile {
  /// What the file is, which decides what can be done with its pages.
  public enum Kind: String, Sendable {
    /// A memfd of base pages.
    case memfd
    /// A memfd of huge pages, or a file on hugetlbfs.
    case hugetlb
    /// Shared memory that is not a sealed memfd, such as a file in /dev/shm.
    case shmem
    /// Any other file.
    case other
  }

  /// Device and inode: two regions with equal identities show the same pages.
  public let identity: FileFacts.Identity
  /// Our own descriptor of the file.
  public let fd: SharedFD
  /// Size in bytes when it was mapped.
  public let size: UInt64
  /// Size of a page of this file in bytes: the unit of discards.
  public let pageSize: UInt64
  /// What kind of file it is.
  public let kind: Kind
  /// Its seals, nil where the file has none to offer.
  public let seals: Seals?
  private let ordinary: Mapping
  /// Its second mapping, once a buffer needs one.
  var witness: Witness?

  /// Maps the whole file readable and writable.
  ///
  /// - Throws: errors of statx(2) and mmap(2); `ENODEV` for a file whose pages a server or another
  ///   program would have to bring, for as long as it likes.
  public init(_ fd: consuming OwnedFD) throws(Errno) {
    let facts = try FileFacts(of: fd.raw)
    guard facts.isLocal else { throw Errno(19, "statx") }
    identity = facts.identity
    size = facts.size
    pageSize = facts.pageSize
    seals = MemFD.seals(of: fd.raw)
    if facts.isHugetlb {
      kind = .hugetlb
    } else if facts.isShmem {
      kind = seals == nil || seals == [.seal] ? .shmem : .memfd
    } else {
      kind = .other
    }
    guard let count = Int(exactly: facts.size) else { throw Errno(27, "mmap") }
    // The front-end decides whether huge pages are reserved.
    ordinary = try Mapping(
      fd: fd.raw, offset: 0, count: count, writable: true, reserves: false, guarded: true)
    // No guest RAM in core dumps.
    try ordinary.advise(dontDump, offset: 0, count: count)
    self.fd = SharedFD(fd)
  }

  /// Whether an access found a page that the file has no longer, because somebody truncated it.
  /// Everything in it reads as zero since then.
  public var isLost: Bool { ordinary.isLost }

  /// Where a range of the file is mapped for rings, transfers and drawing.
  ///
  /// - Parameters:
  ///   - offset: bytes from the start of the file.
  ///   - count: bytes.
  /// - Returns: nil where the range passes the end of the file.
  public func pointer(at offset: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    let (end, overflow) = offset.addingReportingOverflow(count)
    guard !overflow, end <= size, let distance = Int(exactly: offset) else { return nil }
    return ordinary.base + distance
  }

  /// Fills holes in a range with zero pages (`MADV_POPULATE_READ`, madvise(2)).
  public func populate(offset: UInt64, count: UInt64) throws(Errno) {
    guard let start = Int(exactly: offset), let length = Int(exactly: count) else { return }
    try ordinary.advise(populateRead, offset: start, count: length)
  }
}

/// A run of bytes of a guest file.
public struct FileRange {
  /// The file.
  public let file: GuestFile
  /// Bytes from its start.
  public let offset: UInt64
  /// Length in bytes.
  public let count: UInt64

  /// Names `count` bytes at `offset` of a file.
  public init(file: GuestFile, offset: UInt64, count: UInt64) {
    self.file = file
    self.offset = offset
    self.count = count
  }

  /// One past the last byte.
  public var end: UInt64 { offset &+ count }
}
