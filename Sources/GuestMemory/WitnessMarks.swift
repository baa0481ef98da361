import Glibc
import Synchronization

/// The pages of a witness that its listener saw lost: one bit for each.
///
/// The listener's thread sets bits, the owner's thread takes them.
final class WitnessMarks: @unchecked Sendable {
  let base: UInt
  let size: UInt64
  let pageSize: UInt64
  private let words: UnsafeMutablePointer<Atomic<UInt64>>
  /// How many bits are set, but for what is being set or taken at this moment. A mark counts
  /// before the listener lets the page appear, so who saw the page sees the count.
  private let pending = Atomic<Int>(0)
  private let gaveUp = Atomic<Bool>(false)

  /// Marks for `size` bytes of mapping at the address `base`; nil without memory.
  init?(base: UInt, size: UInt64, pageSize: UInt64) {
    self.base = base
    self.size = size
    self.pageSize = pageSize
    let words = (size / pageSize + 64) / 64
    // calloc: the kernel gives zero pages for those parts only that are ever marked.
    guard let count = Int(exactly: words), let raw = calloc(count, 8) else { return nil }
    self.words = raw.assumingMemoryBound(to: Atomic<UInt64>.self)
  }

  deinit { free(words) }

  /// No page is marked.
  var isEmpty: Bool { pending.load(ordering: .acquiring) == 0 }

  /// Bytes of the mapping: `size` in whole pages.
  var mappedSize: UInt64 { (size &+ pageSize &- 1) & ~(pageSize &- 1) }

  /// A fault could not be served, so that nobody watches the mapping any more.
  var isGivenUp: Bool { gaveUp.load(ordering: .acquiring) }

  func giveUp() { gaveUp.store(true, ordering: .releasing) }

  func contains(address: UInt64) -> Bool {
    address >= UInt64(base) && address &- UInt64(base) < size
  }

  /// Marks the pages of a span; what is outside is ignored.
  func mark(_ span: PageSpan) {
    guard span.count > 0, span.offset < size else { return }
    forEachWord(of: PageSpan(offset: span.offset, count: min(span.count, size &- span.offset))) {
      let before = words[$0].bitwiseOr($1, ordering: .sequentiallyConsistent).oldValue
      let fresh = ($1 & ~before).nonzeroBitCount
      if fresh > 0 { _ = pending.add(fresh, ordering: .sequentiallyConsistent) }
    }
  }

  /// How many pages of a span are marked.
  func count(in span: PageSpan) -> Int {
    guard !isEmpty else { return 0 }
    var count = 0
    forEachWord(of: span) {
      count += (words[$0].load(ordering: .sequentiallyConsistent) & $1).nonzeroBitCount
    }
    return count
  }

  /// Clears the marks of a span and reports each run of them, at most 64 pages at a time.
  func take(in span: PageSpan, _ body: (PageSpan) -> Void) {
    guard !isEmpty else { return }
    forEachWord(of: span) {
      let taken = words[$0].bitwiseAnd(~$1, ordering: .sequentiallyConsistent).oldValue & $1
      guard taken != 0 else { return }
      _ = pending.subtract(taken.nonzeroBitCount, ordering: .sequentiallyConsistent)
      report(taken, word: $0, body)
    }
  }

  /// Reports the runs of marks in a span and leaves them, at most 64 pages at a time.
  func peek(in span: PageSpan, _ body: (PageSpan) -> Void) {
    guard !isEmpty else { return }
    forEachWord(of: span) {
      let marked = words[$0].load(ordering: .sequentiallyConsistent) & $1
      if marked != 0 { report(marked, word: $0, body) }
    }
  }

  private func report(_ bits: UInt64, word: Int, _ body: (PageSpan) -> Void) {
    var left = bits
    while left != 0 {
      let start = left.trailingZeroBitCount
      let length = (~(left >> UInt64(start))).trailingZeroBitCount
      body(
        PageSpan(
          offset: UInt64(word * 64 + start) &* pageSize, count: UInt64(length) &* pageSize))
      left &= length == 64 ? 0 : ~(((1 << UInt64(length)) &- 1) << UInt64(start))
    }
  }

  private func forEachWord(of span: PageSpan, _ body: (Int, UInt64) -> Void) {
    guard span.count > 0, span.end <= size else { return }
    let first = span.offset / pageSize
    let last = (span.end &- 1) / pageSize
    for word in first / 64...last / 64 {
      var mask = UInt64.max
      if word == first / 64 { mask &= .max << (first % 64) }
      if word == last / 64 { mask &= .max >> (63 &- last % 64) }
      body(Int(word), mask)
    }
  }
}
