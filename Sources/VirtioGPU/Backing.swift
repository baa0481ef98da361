import Buffers
import GuestMemory

/// The guest pages behind a resource, as (file, offset) runs in the order the guest gave.
struct Backing: CustomStringConvertible {
  /// Merged runs.
  let ranges: [FileRange]
  /// Total length in bytes.
  let count: UInt64
  private let spans: [HostSpan]

  /// Resolves guest entries.
  ///
  /// - Parameters:
  ///   - entries: guest physical address and length of each piece.
  ///   - memory: the guest's present memory table.
  /// - Throws: ``Response/invalidParameter`` where a piece is outside of guest memory.
  init(
    entries: [(address: UInt64, count: UInt32)], in memory: GuestMemory
  ) throws(Response) {
    var ranges: [FileRange] = []
    var total: UInt64 = 0
    for entry in entries {
      guard memory.fileRanges(guest: entry.address, count: UInt64(entry.count), into: &ranges)
      else { throw .invalidParameter }
      let (sum, overflow) = total.addingReportingOverflow(UInt64(entry.count))
      guard !overflow else { throw .invalidParameter }
      total = sum
    }
    var spans: [HostSpan] = []
    spans.reserveCapacity(ranges.count)
    for range in ranges {
      guard let base = range.file.pointer(at: range.offset, count: range.count),
        let count = Int(exactly: range.count)
      else { throw .invalidParameter }
      spans.append(HostSpan(base: base, count: count))
    }
    self.ranges = ranges
    self.spans = spans
    count = total
  }

  /// The pixels in these pages; nil if there are too few of them.
  func pixels(_ layout: PixelLayout) -> PixelSource? { PixelSource(layout: layout, spans: spans) }

  /// The runs as `offset+length` in bytes of their file, separated by commas.
  var description: String {
    ranges.map { "\($0.offset)+\($0.count)" }.joined(separator: ",")
  }
}
