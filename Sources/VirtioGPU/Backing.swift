import Buffers
import GuestMemory
import Linux

/// The guest pages behind a resource, as (file, offset) runs in the order the guest gave.
struct Backing: CustomStringConvertible {
  /// Merged runs.
  let ranges: [FileRange]
  /// Total length in bytes.
  let count: UInt64
  private let spans: [HostSpan]
  private let share: HostShare

  /// Host memory that each run takes here.
  private static let bytesPerRun: UInt64 = 64

  /// Resolves guest entries.
  ///
  /// - Parameters:
  ///   - entries: guest physical address and length of each piece.
  ///   - memory: the guest's present memory table.
  ///   - budget: pays for the list.
  /// - Throws: ``Response/invalidParameter`` where a piece is outside of guest memory,
  ///   ``Response/outOfMemory`` over budget.
  init(
    entries: [(address: UInt64, count: UInt32)], in memory: GuestMemory, _ budget: HostBudget
  ) throws(Response) {
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

  private init(_ ranges: [FileRange], _ share: HostShare) throws(Response) {
    var total: UInt64 = 0
    var spans: [HostSpan] = []
    spans.reserveCapacity(ranges.count)
    for range in ranges {
      let (sum, overflow) = total.addingReportingOverflow(range.count)
      guard !overflow, let base = range.file.pointer(at: range.offset, count: range.count),
        let count = Int(exactly: range.count)
      else { throw .invalidParameter }
      total = sum
      spans.append(HostSpan(base: base, count: count))
    }
    self.ranges = ranges
    self.spans = spans
    self.share = share
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

  /// The runs as `offset+length` in bytes of their file, separated by commas.
  var description: String {
    ranges.map { "\($0.offset)+\($0.count)" }.joined(separator: ",")
  }
}

extension Backing {
  /// Pages that the guest attached and that are not in its memory any more.
  struct Lost {
    fileprivate let runs: [(file: FileFacts.Identity, offset: UInt64, count: UInt64)]
    fileprivate let share: HostShare
  }

  /// Whether every page is in guest memory.
  func isIntact(in memory: GuestMemory) -> Bool { ranges.allSatisfy(memory.covers) }

  /// What to remember of these pages; it does not keep them mapped.
  var lost: Lost {
    Lost(runs: ranges.map { ($0.file.identity, $0.offset, $0.count) }, share: share)
  }

  /// The same pages once all of them are back, for instance in a region of another size; nil
  /// until then.
  init?(_ lost: Lost, in memory: GuestMemory) {
    var ranges: [FileRange] = []
    ranges.reserveCapacity(lost.runs.count)
    for run in lost.runs {
      let entry = memory.entries.first { $0.file.identity == run.file && !$0.file.isLost }
      guard let file = entry?.file else { return nil }
      let range = FileRange(file: file, offset: run.offset, count: run.count)
      guard memory.covers(range) else { return nil }
      ranges.append(range)
    }
    do throws(Response) { try self.init(ranges, lost.share) } catch { return nil }
  }
}
