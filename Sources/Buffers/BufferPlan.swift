import GuestMemory
import Linux
import Pixels

/// What a udmabuf over a picture's pages takes, decided without asking the kernel.
public struct BufferPlan {
  /// The pieces in order; neighbours that continue each other in the same file are one.
  public let items: [FileRange]
  /// Bytes in all of them.
  public let bytes: UInt64

  /// Checks a picture's memory against udmabuf's rules.
  ///
  /// - Parameters:
  ///   - layout: of the picture in the joined ranges.
  ///   - ranges: the picture's memory in order.
  ///   - limits: of the device.
  /// - Throws: the first reason that is in the way.
  public init(
    layout: PixelLayout, ranges: [FileRange], limits: UdmabufDevice.Limits
  ) throws(CopyReason) {
    let page = UInt64(pageSize)
    for range in ranges { try Self.check(range.file) }
    guard layout.offset < page else { throw .unalignedStart(offset: layout.offset) }
    let items = Self.merged(ranges)
    var bytes: UInt64 = 0
    for item in items {
      guard item.offset % page == 0 else { throw .unalignedEntry(offset: item.offset) }
      guard item.count % page == 0 else { throw .unalignedLength(count: item.count) }
      let (sum, overflow) = bytes.addingReportingOverflow(item.count)
      bytes = overflow ? .max : sum
    }
    guard bytes > 0, bytes >= layout.size else {
      throw .tooShort(bytes: bytes, needed: layout.size)
    }
    guard items.count <= limits.entries else {
      throw .tooManyEntries(items.count, limit: limits.entries)
    }
    guard bytes <= limits.bytes else { throw .tooLarge(bytes: bytes, limit: limits.bytes) }
    self.items = items
    self.bytes = bytes
  }

  private static func check(_ file: GuestFile) throws(CopyReason) {
    guard file.kind == .memfd || file.kind == .hugetlb, let seals = file.seals else {
      throw .notMemfd
    }
    guard seals.contains(.shrink) else { throw .noShrinkSeal }
    guard seals.isDisjoint(with: [.write, .futureWrite]) else { throw .writeSealed }
  }

  private static func merged(_ ranges: [FileRange]) -> [FileRange] {
    var items: [FileRange] = []
    for range in ranges where range.count > 0 {
      if let last = items.last, last.file === range.file, last.end == range.offset {
        items[items.count - 1] = FileRange(
          file: last.file, offset: last.offset, count: last.count &+ range.count)
      } else {
        items.append(range)
      }
    }
    return items
  }
}
