import CLinux
import Glibc

/// Seals of a memfd, as in fcntl(2) `F_ADD_SEALS`.
public struct Seals: OptionSet, Sendable {
  /// The `F_SEAL_*` bits.
  public let rawValue: CInt
  /// Wraps `F_SEAL_*` bits.
  public init(rawValue: CInt) { self.rawValue = rawValue }
  /// No more seals can be added.
  public static let seal = Seals(rawValue: CInt(ph_SEAL_SEAL))
  /// The file cannot shrink: what udmabuf demands.
  public static let shrink = Seals(rawValue: CInt(ph_SEAL_SHRINK))
  /// The file cannot grow.
  public static let grow = Seals(rawValue: CInt(ph_SEAL_GROW))
  /// Nobody can write: udmabuf refuses it.
  public static let write = Seals(rawValue: CInt(ph_SEAL_WRITE))
  /// No new writable mapping; those that exist stay writable.
  public static let futureWrite = Seals(rawValue: CInt(ph_SEAL_FUTURE_WRITE))
}

/// memfd_create(2) and what is done to memfds.
public enum MemFD {
  /// Makes a memfd of a fixed size that can be sealed.
  ///
  /// - Parameters:
  ///   - name: shown in /proc/PID/fd as `memfd:name`.
  ///   - size: in bytes.
  ///   - hugePageSize: 0 for base pages, or a huge page size in bytes such as 2 MiB.
  ///   - seals: set after the size is.
  public static func create(
    _ name: String, size: Int, hugePageSize: UInt64 = 0, seals: Seals = []
  ) throws(Errno) -> OwnedFD {
    let fd = OwnedFD(
      adopting: try check(ph_memfd_create(name, hugePageSize), "memfd_create"))
    guard let bytes = UInt64(exactly: size) else { throw Errno(EINVAL, "ftruncate") }
    try check(ph_ftruncate(fd.raw, bytes), "ftruncate")
    if !seals.isEmpty { try add(seals, to: fd.raw) }
    return fd
  }

  /// Adds seals to a memfd.
  public static func add(_ seals: Seals, to fd: CInt) throws(Errno) {
    try check(ph_add_seals(fd, seals.rawValue), "fcntl(F_ADD_SEALS)")
  }

  /// The seals of a file, nil where the file has no seals at all.
  public static func seals(of fd: CInt) -> Seals? {
    let bits = ph_get_seals(fd)
    return bits < 0 ? nil : Seals(rawValue: bits)
  }

  /// Discards a range: fallocate(2) with `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`.
  ///
  /// - Parameters:
  ///   - fd: the memfd.
  ///   - offset: start in bytes.
  ///   - count: length in bytes.
  public static func punchHole(_ fd: CInt, offset: UInt64, count: UInt64) throws(Errno) {
    try check(ph_punch_hole(fd, offset, count), "fallocate(PUNCH_HOLE)")
  }
}

/// What statx(2) and fstatfs(2) say of an open file, without a question to whoever serves it.
public struct FileFacts: Sendable {
  /// Device and inode: the identity of a file, whatever its descriptors.
  public struct Identity: Hashable, Sendable {
    /// `st_dev`.
    public let device: UInt64
    /// `st_ino`.
    public let inode: UInt64
  }

  /// The file's identity.
  public let identity: Identity
  /// Size in bytes.
  public let size: UInt64
  /// Size of the file system's pages in bytes: the huge page size on hugetlbfs.
  public let pageSize: UInt64
  /// A memfd or a file on tmpfs.
  public let isShmem: Bool
  /// A file on hugetlbfs, or a memfd of huge pages.
  public let isHugetlb: Bool
  /// Its bytes are the kernel's own to give: in memory, or on a block device, and not a server's
  /// or another program's, which could have whoever reads them wait.
  public let isLocal: Bool
  /// Last modification and change in nanoseconds.
  public let mtime: Int64
  /// Last change of the inode in nanoseconds.
  public let ctime: Int64

  /// Asks the kernel about an open file.
  public init(of fd: CInt) throws(Errno) {
    var facts = ph_file_facts()
    try check(ph_stat_file(fd, &facts), "statx")
    identity = Identity(device: facts.device, inode: facts.inode)
    size = facts.size
    isShmem = facts.filesystem == ph_TMPFS_MAGIC
    isHugetlb = facts.filesystem == ph_HUGETLBFS_MAGIC
    isLocal = isShmem || isHugetlb || facts.is_on_disk != 0
    pageSize = isHugetlb ? facts.block_size : UInt64(sysconf(CInt(_SC_PAGESIZE)))
    mtime = facts.mtime_ns
    ctime = facts.ctime_ns
  }
}
