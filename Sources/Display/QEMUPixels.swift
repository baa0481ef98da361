import Buffers
import Glibc

/// Puts the pixels of a rectangle into an outbox, as UPDATE wants them.
final class QEMUPixels {
  private var scratch: UnsafeMutableRawPointer?
  private var scratchSize = 0

  /// Bytes converted at a time.
  private static let chunk = 256 << 10

  deinit { free(scratch) }

  /// Whether every row of the rectangle can be read and converted.
  static func canRead(_ rect: Rect, of source: PixelSource) -> Bool {
    rect.fits(width: source.layout.width, height: source.layout.height)
      && UInt64(source.layout.stride) >= UInt64(source.layout.width) * 4
      && PixelConversion(from: source.layout.fourcc) != nil
  }

  /// Adds `width * height * 4` bytes and flushes the outbox.
  ///
  /// Pixels that are right as they are go to the kernel from where they lie.
  ///
  /// - Parameter rect: in pixels of the picture.
  /// - Returns: false if not all of them could be read; the connection is out of step then.
  func send(_ rect: Rect, of source: PixelSource, into outbox: QEMUOutbox) -> Bool {
    guard Self.canRead(rect, of: source),
      let conversion = PixelConversion(from: source.layout.fourcc)
    else { return false }
    if conversion == .none {
      let whole = source.forEachPiece(of: rect) { outbox.add($0, $1) }
      outbox.flush()
      return whole
    }
    return convert(rect, of: source, by: conversion, into: outbox)
  }

  private func convert(
    _ rect: Rect, of source: PixelSource, by conversion: PixelConversion, into outbox: QEMUOutbox
  ) -> Bool {
    let rowBytes = Int(rect.width) * 4
    guard rowBytes > 0, let scratch = room(for: max(rowBytes, Self.chunk)) else { return false }
    let rowsAtOnce = UInt32(clamping: scratchSize / rowBytes)
    var row: UInt32 = 0
    while row < rect.height {
      let rows = min(rowsAtOnce, rect.height - row)
      let part = Rect(x: rect.x, y: rect.y + row, width: rect.width, height: rows)
      guard source.copy(part, to: scratch, stride: rowBytes) else { return false }
      conversion.apply(to: scratch, count: Int(rect.width) * Int(rows))
      outbox.add(scratch, rowBytes * Int(rows))
      outbox.flush()
      row += rows
    }
    return true
  }

  private func room(for count: Int) -> UnsafeMutableRawPointer? {
    if scratchSize < count {
      free(scratch)
      scratch = malloc(count)
      scratchSize = scratch == nil ? 0 : count
    }
    return scratch
  }
}
