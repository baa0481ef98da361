import Buffers
import Glibc
import Pixels

/// A picture in host memory: the snapshot that TRANSFER_TO_HOST_2D makes.
final class HostImage {
  let layout: PixelLayout
  private let memory: UnsafeMutableRawPointer
  let pixels: PixelSource

  /// A black picture; nil when there is no memory for it.
  init?(width: UInt32, height: UInt32, fourcc: FourCC) {
    let (stride, wide) = width.multipliedReportingOverflow(by: 4)
    layout = PixelLayout(width: width, height: height, stride: stride, fourcc: fourcc)
    guard !wide, let size = Int(exactly: layout.size), size > 0,
      let memory = calloc(1, size)
    else { return nil }
    self.memory = memory
    guard
      let pixels = PixelSource(layout: layout, spans: [HostSpan(base: memory, count: size)])
    else {
      free(memory)
      return nil
    }
    self.pixels = pixels
  }

  deinit { free(memory) }

  /// Copies a rectangle of the same place from another picture of the same size.
  func copy(_ rect: Rect, from source: PixelSource) {
    guard rect.fits(width: layout.width, height: layout.height) else { return }
    source.copy(rect, to: address(rect.x, rect.y), stride: Int(layout.stride))
  }

  /// Copies a rectangle whose first pixel lies `offset` bytes into `source`'s memory.
  func transfer(_ rect: Rect, from source: PixelSource, offset: UInt64) {
    guard rect.fits(width: layout.width, height: layout.height) else { return }
    for row in 0..<rect.height {
      var out = address(rect.x, rect.y + row)
      let (start, overflow) = offset.addingReportingOverflow(
        UInt64(row) * UInt64(layout.stride))
      guard !overflow else { return }
      source.forEachPiece(offset: start, count: Int(rect.width) * 4) { piece, count in
        memcpy(out, piece, count)
        out += count
      }
    }
  }

  private func address(_ x: UInt32, _ y: UInt32) -> UnsafeMutableRawPointer {
    memory + Int(y) * Int(layout.stride) + Int(x) * 4
  }
}
