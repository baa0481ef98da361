import Glibc

/// A stretch of mapped memory.
public struct HostSpan {
  /// Its first byte.
  public let base: UnsafeMutableRawPointer
  /// Its length in bytes.
  public let count: Int
  /// Wraps a stretch that outlives this value.
  public init(base: UnsafeMutableRawPointer, count: Int) {
    self.base = base
    self.count = count
  }
}

/// The pixels of a picture for the CPU: scattered memory read as one piece.
public struct PixelSource {
  /// Where the pixels lie in the joined spans.
  public let layout: PixelLayout
  /// The pieces in order; together at least `layout.size` bytes.
  public let spans: [HostSpan]
  private let starts: [Int]

  /// Joins spans; nil if they are shorter than the layout needs.
  public init?(layout: PixelLayout, spans: [HostSpan]) {
    var starts: [Int] = []
    var total = 0
    for span in spans {
      starts.append(total)
      let (sum, overflow) = total.addingReportingOverflow(span.count)
      guard !overflow, span.count >= 0 else { return nil }
      total = sum
    }
    guard UInt64(total) >= layout.size else { return nil }
    self.layout = layout
    self.spans = spans
    self.starts = starts
  }

  /// Visits a run of bytes piece by piece; false when the run passes the end.
  ///
  /// - Parameters:
  ///   - offset: bytes from the start of the joined spans.
  ///   - count: bytes.
  @discardableResult
  public func forEachPiece(
    offset: UInt64, count: Int, _ body: (UnsafeMutableRawPointer, Int) -> Void
  ) -> Bool {
    guard var at = Int(exactly: offset), count >= 0 else { return false }
    var index = span(at: at)
    var left = count
    while left > 0 {
      guard index >= 0, index < spans.count else { return false }
      let inside = at - starts[index]
      let take = min(left, spans[index].count - inside)
      if take > 0 { body(spans[index].base + inside, take) }
      at += take
      left -= take
      index += 1
    }
    return true
  }

  /// The span that a byte of the joined spans lies in, if there is such a byte.
  private func span(at offset: Int) -> Int {
    var low = 0
    var high = starts.count
    while low < high {
      let middle = (low + high) / 2
      if starts[middle] <= offset { low = middle + 1 } else { high = middle }
    }
    return low - 1
  }

  /// Where a run of bytes lies, if it is all in one span: then its rows need not be looked up one by
  /// one.
  ///
  /// - Parameters:
  ///   - offset: bytes from the start of the joined spans.
  ///   - count: bytes.
  public func piece(offset: UInt64, count: UInt64) -> UnsafeMutableRawPointer? {
    guard let at = Int(exactly: offset), let count = Int(exactly: count), count > 0 else {
      return nil
    }
    let index = span(at: at)
    guard spans.indices.contains(index) else { return nil }
    let inside = at - starts[index]
    guard inside < spans[index].count, count <= spans[index].count - inside else { return nil }
    return spans[index].base + inside
  }

  /// The first pixel of a rectangle, if all of its rows lie in one span, a stride apart.
  ///
  /// - Parameter rect: in pixels of the picture; nil if it does not fit.
  public func piece(of rect: Rect) -> UnsafeMutableRawPointer? {
    guard !rect.isEmpty, rect.fits(width: layout.width, height: layout.height) else { return nil }
    let stride = UInt64(layout.stride)
    let first = UInt64(rect.y) * stride + UInt64(rect.x) * 4
    let (start, overflow) = layout.offset.addingReportingOverflow(first)
    guard !overflow else { return nil }
    return piece(
      offset: start, count: UInt64(rect.height - 1) * stride + UInt64(rect.width) * 4)
  }

  /// Visits the bytes of a rectangle row by row, each row in one or more pieces.
  ///
  /// - Parameter rect: in pixels of the picture; false if it does not fit.
  @discardableResult
  public func forEachPiece(of rect: Rect, _ body: (UnsafeMutableRawPointer, Int) -> Void) -> Bool {
    guard rect.fits(width: layout.width, height: layout.height) else { return false }
    for row in 0..<rect.height {
      let y = UInt64(rect.y) + UInt64(row)
      let start = layout.offset + y * UInt64(layout.stride) + UInt64(rect.x) * 4
      guard forEachPiece(offset: start, count: Int(rect.width) * 4, body) else { return false }
    }
    return true
  }

  /// Copies a rectangle to `target`, whose rows are `stride` bytes apart.
  @discardableResult
  public func copy(
    _ rect: Rect, to target: UnsafeMutableRawPointer, stride: Int
  ) -> Bool {
    guard rect.fits(width: layout.width, height: layout.height) else { return false }
    if let base = piece(of: rect) {
      for row in 0..<Int(rect.height) {
        memcpy(target + row * stride, base + row * Int(layout.stride), Int(rect.width) * 4)
      }
      return true
    }
    for row in 0..<rect.height {
      let y = UInt64(rect.y) + UInt64(row)
      let start = layout.offset + y * UInt64(layout.stride) + UInt64(rect.x) * 4
      var out = target + Int(row) * stride
      let whole = forEachPiece(offset: start, count: Int(rect.width) * 4) { piece, count in
        memcpy(out, piece, count)
        out += count
      }
      guard whole else { return false }
    }
    return true
  }
}
