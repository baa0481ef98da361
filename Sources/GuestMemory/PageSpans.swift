/// A run of pages of a file, in bytes.
public struct PageSpan: Equatable, Sendable {
  /// Bytes from the start of the file.
  public let offset: UInt64
  /// Length in bytes.
  public let count: UInt64

  /// Names `count` bytes at `offset`.
  public init(offset: UInt64, count: UInt64) {
    self.offset = offset
    self.count = count
  }

  /// One past the last byte; saturates.
  public var end: UInt64 {
    let (end, overflow) = offset.addingReportingOverflow(count)
    return overflow ? .max : end
  }

  /// Whether both share a byte.
  public func overlaps(_ other: PageSpan) -> Bool { offset < other.end && other.offset < end }

  /// What is left where another run is taken away: none, one or two runs.
  func without(_ taken: PageSpan) -> [PageSpan] {
    guard overlaps(taken) else { return [self] }
    var rest: [PageSpan] = []
    if offset < taken.offset {
      rest.append(PageSpan(offset: offset, count: taken.offset &- offset))
    }
    if taken.end < end { rest.append(PageSpan(offset: taken.end, count: end &- taken.end)) }
    return rest
  }
}

/// A set of pages of one file: runs in ascending order, no two of which touch.
public struct PageSpans: Sendable {
  /// Neighbouring runs that one scan covers, because a scan costs more than the pages between.
  struct Group: Equatable {
    let span: PageSpan
    let runs: Range<Int>
  }

  /// The runs.
  public let runs: [PageSpan]
  /// Bytes in all of them.
  public let bytes: UInt64
  let groups: [Group]

  /// Walking over 256 base pages costs about what another scan does, where they are all there;
  /// mostly they are not, and cost nothing.
  static let scanAcross: UInt64 = 256 * 4096

  /// Collects runs in any order; they may overlap.
  ///
  /// - Parameters:
  ///   - spans: runs of bytes; empty ones are dropped.
  ///   - pageSize: of the file, a power of two: runs are extended to whole pages.
  public init(_ spans: some Sequence<PageSpan>, pageSize: UInt64) {
    let mask = pageSize &- 1
    let whole = spans.filter { $0.count > 0 }.map { span in
      let start = span.offset & ~mask
      let (end, overflow) = span.end.addingReportingOverflow(mask)
      return PageSpan(offset: start, count: ((overflow ? .max : end) & ~mask) &- start)
    }
    var runs: [PageSpan] = []
    for span in whole.sorted(by: { $0.offset < $1.offset }) {
      if let last = runs.last, span.offset <= last.end {
        let end = max(last.end, span.end)
        runs[runs.count - 1] = PageSpan(offset: last.offset, count: end &- last.offset)
      } else {
        runs.append(span)
      }
    }
    self.runs = runs
    bytes = runs.reduce(0) { $0 &+ $1.count }
    groups = Self.grouped(runs)
  }

  private static func grouped(_ runs: [PageSpan]) -> [Group] {
    var groups: [Group] = []
    for (index, run) in runs.enumerated() {
      if let last = groups.last, run.offset &- last.span.end <= scanAcross {
        groups[groups.count - 1] = Group(
          span: PageSpan(offset: last.span.offset, count: run.end &- last.span.offset),
          runs: last.runs.lowerBound..<index + 1)
      } else {
        groups.append(Group(span: run, runs: index..<index + 1))
      }
    }
    return groups
  }

  /// Whether any of the pages lies in `span`.
  public func overlaps(_ span: PageSpan) -> Bool {
    var low = 0
    var high = runs.count
    while low < high {
      let middle = (low + high) / 2
      if runs[middle].end <= span.offset { low = middle + 1 } else { high = middle }
    }
    return low < runs.count && runs[low].offset < span.end
  }

  /// Visits the parts of `span` that belong to the set, in ascending order.
  ///
  /// - Parameter start: a run that does not lie behind the span.
  /// - Returns: where to start for the next span, if spans come in ascending order.
  func clip<E: Error>(
    _ span: PageSpan, from start: Int = 0, _ body: (PageSpan) throws(E) -> Void
  ) throws(E) -> Int {
    var index = start
    while index < runs.count, runs[index].end <= span.offset { index += 1 }
    while index < runs.count, runs[index].offset < span.end {
      let from = max(span.offset, runs[index].offset)
      let end = min(span.end, runs[index].end)
      try body(PageSpan(offset: from, count: end &- from))
      // A run that goes on behind the span may have parts in the next one too.
      if runs[index].end > span.end { break }
      index += 1
    }
    return index
  }

  /// The parts of this set that `others` do not cover.
  func subtracting(_ others: [PageSpans]) -> [PageSpan] {
    var left = runs
    for taken in others.flatMap(\.runs) {
      left = left.flatMap { $0.without(taken) }
    }
    return left
  }
}
