import Buffers
import GPUCommands
import GuestMemory
import Linux
import Pixels

/// The guest pages behind a resource, as (file, offset) runs in the order the guest gave.
final class Backing: CustomStringConvertible {
  /// Merged runs.
  let ranges: [FileRange]
  /// Total length in bytes.
  let count: UInt64
  private let spans: [HostSpan]
  /// From the lowest to the highest host address of any run.
  private let hull: Range<UInt>
  private let share: HostShare

  /// Host memory that each run takes here.
  private static let bytesPerRun: UInt64 = 64

  /// Resolves guest entries.
  ///
  /// - Parameters:
  ///   - entries: guest physical address and length of each piece.
  ///   - memory: the guest's present memory table.
  ///   - budget: pays for the list.
  /// - Throws: ``GPUError/invalidParameter`` where a piece is outside of guest memory,
  ///   ``GPUError/outOfMemory`` over budget.
  convenience init(
    entries: [(address: UInt64, count: UInt32)], in memory: GuestMemory, _ budget: HostBudget
  ) throws(GPUError) {
    var ranges: [FileRange] = []
    for entry in entries {
      guard memory.fileRanges(guest: entry.address, count: UInt64(entry.count), into: &ranges)
      else { throw .invalidParameter }
    }
    guard let share = budget.take(UInt64(ranges.count) * Self.bytesPerRun) else {
      throw .outOfMemory
    }
    try self.init(ranges, share)
  }

  private init(_ ranges: [FileRange], _ share: HostShare) throws(GPUError) {
    var total: UInt64 = 0
    var (low, high) = (UInt.max, UInt.min)
    var spans: [HostSpan] = []
    spans.reserveCapacity(ranges.count)
    for range in ranges {
      let (sum, overflow) = total.addingReportingOverflow(range.count)
      guard !overflow, let base = range.file.pointer(at: range.offset, count: range.count),
        let count = Int(exactly: range.count)
      else { throw .invalidParameter }
      total = sum
      spans.append(HostSpan(base: base, count: count))
      low = min(low, UInt(bitPattern: base))
      high = max(high, UInt(bitPattern: base) + UInt(count))
    }
    self.ranges = ranges
    self.spans = spans
    self.share = share
    hull = low < high ? low..<high : 0..<0
    count = total
  }

  /// The pixels in these pages; nil if there are too few of them.
  func pixels(_ layout: PixelLayout) -> PixelSource? { PixelSource(layout: layout, spans: spans) }

  /// The whole pages that hold a picture, and where it lies in them: a picture that begins later
  /// in these pages gets a buffer that begins with its own first page.
  func window(_ layout: PixelLayout) -> (layout: PixelLayout, ranges: [FileRange]) {
    let page = UInt64(pageSize)
    let start = layout.offset & ~(page &- 1)
    let (rounded, overflow) = layout.size.addingReportingOverflow(page &- 1)
    let end = overflow ? .max : rounded & ~(page &- 1)
    guard start > 0 || end < count else { return (layout, ranges) }
    var inside: [FileRange] = []
    var at: UInt64 = 0
    for range in ranges where at < end {
      let from = max(at, start)
      let to = min(at &+ range.count, end)
      if from < to {
        inside.append(
          FileRange(file: range.file, offset: range.offset &+ (from &- at), count: to &- from))
      }
      at &+= range.count
    }
    let moved = PixelLayout(
      width: layout.width, height: layout.height, stride: layout.stride,
      offset: layout.offset &- start, fourcc: layout.fourcc)
    return (moved, inside)
  }

  /// The runs as `offset+length` in bytes of their file, separated by commas; the offset alone for
  /// a page of 4 KiB, so that a line of the log has room for a picture in single pages.
  var description: String {
    ranges.map { $0.count == 4096 ? "\($0.offset)" : "\($0.offset)+\($0.count)" }
      .joined(separator: ",")
  }
}

/// Host addresses of guest memory that cannot be seen any more.
struct LostAddresses {
  private let ranges: [Range<UInt>]

  init(_ uncovered: [FileRange]) {
    ranges = uncovered.compactMap { range in
      range.file.pointer(at: range.offset, count: range.count).map {
        UInt(bitPattern: $0)..<(UInt(bitPattern: $0) + UInt(range.count))
      }
    }
  }

  func overlaps(_ other: Range<UInt>) -> Bool { ranges.contains { $0.overlaps(other) } }
}

extension Backing {
  /// Pages that the guest attached and that are not in its memory any more.
  struct Lost {
    /// Files by their place in this list.
    fileprivate let files: [FileFacts.Identity]
    /// From the lowest to the highest offset of any run in each file.
    fileprivate let hulls: [Range<UInt64>]
    fileprivate let runs: [(file: Int, offset: UInt64, count: UInt64)]
    /// The run that was missing when it was looked last: it is asked for first.
    fileprivate var missing = 0
    fileprivate let share: HostShare
  }

  /// Whether any page is in memory that was taken out.
  ///
  /// A guest may have hundreds of resources of tens of thousands of runs, while its front-end waits:
  /// most are told by their ends, the others run by run, by addresses alone.
  func isHit(by lost: LostAddresses) -> Bool {
    guard lost.overlaps(hull) else { return false }
    return spans.withUnsafeBufferPointer { spans in
      spans.contains { span in
        let start = UInt(bitPattern: span.base)
        return lost.overlaps(start..<(start + UInt(span.count)))
      }
    }
  }

  /// What to remember of these pages; it does not keep them mapped.
  var lost: Lost {
    var files: [FileFacts.Identity] = []
    var hulls: [Range<UInt64>] = []
    var last: (file: GuestFile, index: Int)?
    func place(of file: GuestFile) -> Int {
      if let last, last.file === file { return last.index }
      let identity = file.identity
      let index = files.firstIndex(of: identity) ?? files.count
      if index == files.count {
        files.append(identity)
        hulls.append(UInt64.max..<UInt64.max)
      }
      last = (file, index)
      return index
    }
    let runs = ranges.map { range in
      let index = place(of: range.file)
      let hull = hulls[index]
      let low = min(hull.lowerBound, range.offset)
      hulls[index] = low..<max(hull.lowerBound == .max ? low : hull.upperBound, range.end)
      return (index, range.offset, range.count)
    }
    return Lost(files: files, hulls: hulls, runs: runs, share: share)
  }

  /// The same pages once all of them are back, for instance in a region of another size; nil
  /// until then.
  convenience init?(_ lost: inout Lost, in memory: GuestMemory) {
    let files = lost.present(in: memory)
    guard lost.firstIsBack(files, in: memory) else { return nil }
    // Most pictures lie in one stretch of memory; others are asked for run by run.
    let areAll = zip(files, lost.hulls).allSatisfy { file, hull in
      guard let file else { return false }
      let count = hull.upperBound - hull.lowerBound
      return memory.covers(FileRange(file: file, offset: hull.lowerBound, count: count))
    }
    var ranges: [FileRange] = []
    ranges.reserveCapacity(lost.runs.count)
    for run in lost.runs.indices {
      guard let range = lost.range(run, files), areAll || memory.covers(range) else {
        lost.missing = run
        return nil
      }
      ranges.append(range)
    }
    do throws(GPUError) { try self.init(ranges, lost.share) } catch { return nil }
  }
}

extension Backing.Lost {
  /// Whether all of it may be back, as far as that is told without looking at each run.
  func mayBeBack(in memory: GuestMemory) -> Bool { firstIsBack(present(in: memory), in: memory) }

  fileprivate func present(in memory: GuestMemory) -> [GuestFile?] {
    files.map { identity in
      memory.entries.first { $0.file.identity == identity && !$0.file.isLost }?.file
    }
  }

  /// Whether the run is back that was missing when it was looked last.
  fileprivate func firstIsBack(_ files: [GuestFile?], in memory: GuestMemory) -> Bool {
    guard runs.indices.contains(missing) else { return true }
    return range(missing, files).map { memory.covers($0) } ?? false
  }

  fileprivate func range(_ run: Int, _ files: [GuestFile?]) -> FileRange? {
    let (file, offset, count) = runs[run]
    return files[file].map { FileRange(file: $0, offset: offset, count: count) }
  }
}
