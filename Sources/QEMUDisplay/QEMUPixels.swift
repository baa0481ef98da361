import Buffers
import Glibc
import Pixels
import Scene

/// Puts the pixels of a rectangle into an outbox, as UPDATE wants them.
enum QEMUPixels {
  /// From so many bytes on one copy of ours, and references to its pages, are cheaper than the
  /// kernel's copy.
  private static let worthStaging = 1 << 20

  /// Whether every row of the rectangle can be read and converted.
  static func canRead(_ rect: Rect, of source: PixelSource) -> Bool {
    rect.fits(width: source.layout.width, height: source.layout.height)
      && UInt64(source.layout.stride) >= UInt64(source.layout.width) * 4
      && PixelConversion(from: source.layout.fourcc) != nil
  }

  /// Adds `width * height * 4` bytes and flushes the outbox.
  ///
  /// Few pixels that are right as they are go to the kernel from where they lie, and whole rows of a
  /// picture that stays as it is by reference.
  ///
  /// - Parameters:
  ///   - rect: in pixels of the picture.
  ///   - still: the same pixels, where they stay as they are.
  /// - Returns: false if not all of them could be read; the connection is out of step then.
  static func send(
    _ rect: Rect, of source: PixelSource, still: StillPicture? = nil, into outbox: QEMUOutbox
  ) -> Bool {
    guard canRead(rect, of: source),
      let conversion = PixelConversion(from: source.layout.fourcc)
    else { return false }
    let row = Int(rect.width) * 4
    let (count, overflow) = row.multipliedReportingOverflow(by: Int(rect.height))
    guard !overflow else { return false }
    if conversion == .none, count < worthStaging {
      defer { outbox.flush() }
      guard let first = source.piece(of: rect) else {
        return source.forEachPiece(of: rect) { outbox.add($0, $1) }
      }
      outbox.add(first, rows: Int(rect.height), row, stride: Int(source.layout.stride))
      return true
    }
    if conversion == .none, let still, row == Int(still.stride) {
      let (offset, overflow) = row.multipliedReportingOverflow(by: Int(rect.y))
      if !overflow, outbox.add(still, from: offset, count) {
        outbox.flush()
        return true
      }
    }
    let whole = outbox.add(count) { room in
      guard source.copy(rect, to: room, stride: row) else { return false }
      if conversion != .none { conversion.apply(to: room, count: count / 4) }
      return true
    }
    outbox.flush()
    return whole
  }
}
