import CLinux
import Linux

let populateRead = ph_MADV_POPULATE_READ
let dontDump = ph_MADV_DONTDUMP

/// A stretch of guest physical addresses, as a vhost-user memory region describes it.
public struct MemoryRegion: Equatable, Sendable {
  /// First guest physical address.
  public let guestAddress: UInt64
  /// Size in bytes.
  public let size: UInt64
  /// The front-end's own address of the region; ring addresses are given in these.
  public let userAddress: UInt64
  /// Where the region starts in its file, in bytes.
  public let fileOffset: UInt64

  /// Describes a region; nothing is checked yet.
  public init(guestAddress: UInt64, size: UInt64, userAddress: UInt64, fileOffset: UInt64) {
    self.guestAddress = guestAddress
    self.size = size
    self.userAddress = userAddress
    self.fileOffset = fileOffset
  }
}

/// Why a memory region was refused.
public enum MemoryError: Error, CustomStringConvertible {
  /// Size zero, or an address or offset that wraps around.
  case malformed(MemoryRegion)
  /// The region reaches past the end of its file.
  case pastEndOfFile(MemoryRegion, fileSize: UInt64)
  /// It overlaps a region that is already there.
  case overlaps(MemoryRegion, MemoryRegion)
  /// More regions than ``GuestMemory/maxRegions``.
  case tooMany
  /// There is no such region to remove.
  case unknown(MemoryRegion)
  /// The file could not be mapped.
  case mapping(MemoryRegion, Errno)

  /// What failed, on which region.
  public var description: String {
    func at(_ r: MemoryRegion) -> String {
      "guest memory region 0x\(String(r.guestAddress, radix: 16))+0x\(String(r.size, radix: 16))"
    }
    switch self {
    case .malformed(let r): return "\(at(r)) is empty or wraps around"
    case .pastEndOfFile(let r, let size):
      return "\(at(r)) at file offset \(r.fileOffset) passes the end of its \(size) byte file"
    case .overlaps(let r, let other): return "\(at(r)) overlaps \(at(other))"
    case .tooMany: return "more than \(GuestMemory.maxRegions) guest memory regions"
    case .unknown(let r): return "\(at(r)) is not mapped"
    case .mapping(let r, let errno): return "cannot map \(at(r)): \(errno)"
    }
  }
}

/// The guest's RAM: which addresses lie where in which files.
///
/// Every address that a guest or a front-end names passes through here before anything uses it.
public final class GuestMemory {
  /// How many regions a front-end may have at a time.
  public static let maxRegions = 64

  /// A region and the file it shows.
  public struct Entry {
    /// The addresses.
    public let region: MemoryRegion
    /// The pages.
    public let file: GuestFile
  }

  /// Sorted by guest address; no two overlap.
  public private(set) var entries: [Entry] = []
  /// Changes whenever the table does: what was resolved before must be resolved again.
  public private(set) var epoch: UInt64 = 0

  /// What was seen through regions and is not any more, since ``takeUncovered()``.
  private var uncovered: [FileRange] = []

  /// Told of each file that becomes guest memory.
  public var fileArrived: ((GuestFile) -> Void)?

  /// No memory yet.
  public init() { _ = GuestFile.hugeShmem }

  /// Replaces the whole table. Files that stay keep their mappings.
  ///
  /// On failure the old table remains.
  public func replace(
    _ regions: [(region: MemoryRegion, fd: SharedFD)]
  ) throws(MemoryError) {
    let old = entries
    var table: [Entry] = []
    for (region, fd) in regions { try insert(region, fd, into: &table, known: old) }
    entries = table
    epoch &+= 1
    for entry in old { noteUncovered(entry) }
  }

  /// Adds one region.
  public func add(_ region: MemoryRegion, _ fd: SharedFD) throws(MemoryError) {
    var table = entries
    try insert(region, fd, into: &table, known: entries)
    entries = table
    epoch &+= 1
  }

  /// Removes the region with these addresses and this size.
  public func remove(_ region: MemoryRegion) throws(MemoryError) {
    let found = entries.firstIndex {
      $0.region.guestAddress == region.guestAddress && $0.region.size == region.size
        && $0.region.userAddress == region.userAddress
    }
    guard let found else { throw .unknown(region) }
    let gone = entries.remove(at: found)
    epoch &+= 1
    noteUncovered(gone)
  }

  /// What could be seen through a region when this was asked last and can be seen through none any
  /// more. Only what lies there has to be looked at after a change.
  public func takeUncovered() -> [FileRange] {
    defer { uncovered = [] }
    return uncovered
  }

  private func noteUncovered(_ entry: Entry) {
    var left = [PageSpan(offset: entry.region.fileOffset, count: entry.region.size)]
    for other in entries where other.file.identity == entry.file.identity && !other.file.isLost {
      let seen = PageSpan(offset: other.region.fileOffset, count: other.region.size)
      left = left.flatMap { $0.without(seen) }
    }
    uncovered += left.map { FileRange(file: entry.file, offset: $0.offset, count: $0.count) }
  }

  /// A region whose file has lost pages under it, if there is one.
  public var lostRegion: MemoryRegion? { entries.first { $0.file.isLost }?.region }

  /// Whether all of these bytes can be seen through some region.
  public func covers(_ range: FileRange) -> Bool {
    var at = range.offset
    while at < range.end {
      let next = entries.first {
        $0.file.identity == range.file.identity && !$0.file.isLost
          && at >= $0.region.fileOffset && at &- $0.region.fileOffset < $0.region.size
      }
      guard let region = next?.region else { return false }
      at = region.fileOffset &+ region.size
    }
    return true
  }

  /// Forgets all regions.
  public func removeAll() {
    entries = []
    uncovered = []
    epoch &+= 1
  }

  private func insert(
    _ region: MemoryRegion, _ fd: SharedFD, into table: inout [Entry], known: [Entry]
  ) throws(MemoryError) {
    guard table.count < Self.maxRegions else { throw .tooMany }
    let ends = [
      region.guestAddress.addingReportingOverflow(region.size).overflow,
      region.userAddress.addingReportingOverflow(region.size).overflow,
      region.fileOffset.addingReportingOverflow(region.size).overflow,
    ]
    guard region.size > 0, !ends.contains(true) else { throw .malformed(region) }
    let file = try self.file(for: region, fd, known: known + table)
    guard region.fileOffset &+ region.size <= file.size else {
      throw .pastEndOfFile(region, fileSize: file.size)
    }
    let place = table.firstIndex { $0.region.guestAddress > region.guestAddress } ?? table.count
    for neighbour in [place - 1, place] where table.indices.contains(neighbour) {
      let other = table[neighbour].region
      guard
        region.guestAddress >= other.guestAddress &+ other.size
          || other.guestAddress >= region.guestAddress &+ region.size
      else { throw .overlaps(region, other) }
    }
    table.insert(Entry(region: region, file: file), at: place)
  }

  private func file(
    for region: MemoryRegion, _ fd: SharedFD, known: [Entry]
  ) throws(MemoryError) -> GuestFile {
    do throws(Errno) {
      let facts = try FileFacts(of: fd.raw)
      let same = known.first {
        $0.file.identity == facts.identity && $0.file.size == facts.size && !$0.file.isLost
      }
      if let same { return same.file }
      let new = try GuestFile(try fd.duplicate())
      fileArrived?(new)
      return new
    } catch { throw .mapping(region, error) }
  }

  private func entry(guest address: UInt64) -> Entry? {
    var low = 0
    var high = entries.count
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].region.guestAddress <= address { low = middle + 1 } else { high = middle }
    }
    guard low > 0 else { return nil }
    let entry = entries[low - 1]
    return address &- entry.region.guestAddress < entry.region.size ? entry : nil
  }

  /// The host address of guest memory that lies in one region.
  ///
  /// - Parameters:
  ///   - address: guest physical address.
  ///   - count: bytes, which may be zero.
  /// - Returns: nil where any byte is outside the guest's memory or crosses regions.
  public func pointer(guest address: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    guard let entry = entry(guest: address) else { return nil }
    let distance = address &- entry.region.guestAddress
    guard count <= entry.region.size &- distance else { return nil }
    return entry.file.pointer(at: entry.region.fileOffset &+ distance, count: count)
  }

  /// The host address for an address of the front-end's, as ring addresses are given.
  public func pointer(user address: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    for entry in entries {
      let distance = address &- entry.region.userAddress
      guard address >= entry.region.userAddress, distance < entry.region.size else { continue }
      guard count <= entry.region.size &- distance else { return nil }
      return entry.file.pointer(at: entry.region.fileOffset &+ distance, count: count)
    }
    return nil
  }

  /// Where guest memory lies in its files; it may span several regions.
  ///
  /// - Parameters:
  ///   - address: guest physical address.
  ///   - count: bytes.
  ///   - ranges: the pieces are appended; a piece that continues the last one extends it.
  /// - Returns: false where any byte is outside the guest's memory.
  public func fileRanges(
    guest address: UInt64, count: UInt64, into ranges: inout [FileRange]
  ) -> Bool {
    var address = address
    var left = count
    while left > 0 {
      guard let entry = entry(guest: address) else { return false }
      let distance = address &- entry.region.guestAddress
      let take = min(left, entry.region.size &- distance)
      let offset = entry.region.fileOffset &+ distance
      if let last = ranges.last, last.file === entry.file, last.end == offset {
        ranges[ranges.count - 1] = FileRange(
          file: last.file, offset: last.offset, count: last.count &+ take)
      } else {
        ranges.append(FileRange(file: entry.file, offset: offset, count: take))
      }
      address &+= take
      left &-= take
      guard left == 0 || address != 0 else { return false }
    }
    return true
  }
}
