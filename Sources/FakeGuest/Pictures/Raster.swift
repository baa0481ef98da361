/// A picture in memory: rows of 0xXXRRGGBB pixels without padding.
package struct Raster: Equatable, Sendable {
  /// Width in pixels.
  package let width: Int
  /// Height in pixels.
  package let height: Int
  /// `width * height` pixels; the top byte means nothing and is zero.
  package var pixels: [UInt32]

  /// Wraps pixels; their top bytes are cleared.
  package init(width: Int, height: Int, pixels: [UInt32]) {
    self.width = width
    self.height = height
    self.pixels = pixels.map { $0 & 0xffffff }
  }

  /// Reads a binary portable pixmap (P6, 8 bits), as QEMU's `screendump` writes it.
  package init(ppm bytes: [UInt8]) throws(GuestError) {
    var at = 0
    func word() -> String {
      while at < bytes.count, bytes[at] <= 32 { at += 1 }
      let from = at
      while at < bytes.count, bytes[at] > 32 { at += 1 }
      return String(decoding: bytes[from..<at], as: UTF8.self)
    }
    guard word() == "P6", let width = Int(word()), let height = Int(word()), word() == "255",
      width > 0, height > 0, bytes.count - at - 1 >= width * height * 3
    else { throw .violation("not a portable pixmap") }
    self.width = width
    self.height = height
    let start = at + 1
    pixels = [UInt32](unsafeUninitializedCapacity: width * height) { out, filled in
      bytes.withUnsafeBufferPointer { p in
        for i in 0..<(width * height) {
          let j = start + i * 3
          out[i] = UInt32(p[j]) << 16 | UInt32(p[j + 1]) << 8 | UInt32(p[j + 2])
        }
      }
      filled = width * height
    }
  }

  /// The pixel at a place, 0x00RRGGBB.
  package subscript(x: Int, y: Int) -> UInt32 { pixels[y * width + x] }

  /// Says where two pictures differ first, nil if they do not.
  package func difference(from other: Raster) -> String? {
    guard width == other.width, height == other.height else {
      return "\(width)×\(height) is not \(other.width)×\(other.height)"
    }
    let wrong = zip(pixels, other.pixels).enumerated().filter { $1.0 != $1.1 }
    guard let first = wrong.first else { return nil }
    func hex(_ pixel: UInt32) -> String { String(pixel, radix: 16) }
    return """
      \(wrong.count) pixels differ, the first at \(first.offset % width),\
      \(first.offset / width): \(hex(first.element.0)) is not \(hex(first.element.1))
      """
  }
}
