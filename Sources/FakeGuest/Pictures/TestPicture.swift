/// Deterministic pictures whose frames differ, 0x00RRGGBB.
package enum TestPicture: String, CaseIterable, Sendable {
  /// Colour bars with a bar that moves with the frame.
  case smpte
  /// A checkerboard with the frame's number in its colours and as bits along the top.
  case checker
  /// A colour ramp that turns with the frame.
  case gradient
  /// Every 4 KiB of pixels has a colour of its own and of its frame.
  case pages

  private static let bars: [UInt32] = [
    0xc0c0c0, 0xc0c000, 0x00c0c0, 0x00c000, 0xc000c0, 0xc00000, 0x0000c0,
  ]

  /// The picture of one frame.
  package func render(width: Int, height: Int, frame: Int = 0) -> Raster {
    let pixels = [UInt32](unsafeUninitializedCapacity: width * height) { out, filled in
      for y in 0..<height {
        for x in 0..<width { out[y * width + x] = pixel(x, y, width, height, frame) }
      }
      filled = width * height
    }
    return Raster(width: width, height: height, pixels: pixels)
  }

  private func pixel(_ x: Int, _ y: Int, _ width: Int, _ height: Int, _ frame: Int) -> UInt32 {
    switch self {
    case .smpte:
      if y * 4 >= height * 3 {
        let at = (frame * 16 + 8) % max(width, 1)
        return abs(x - at) < 8 ? 0xffffff : UInt32(x * 255 / max(width, 1)) * 0x010101
      }
      return Self.bars[x * 7 / max(width, 1)]
    case .checker:
      if y < 16, x < 16 * 16 { return frame >> (x / 16) & 1 == 1 ? 0xffffff : 0x000000 }
      let odd = (x / 32 + y / 32 + frame) % 2 == 1
      let tint = UInt32(truncatingIfNeeded: frame &* 37 & 0xff)
      return odd ? 0x2040c0 ^ tint : 0xe0a020 ^ tint << 8
    case .gradient:
      let red = UInt32(truncatingIfNeeded: x * 255 / max(width - 1, 1) + frame * 5) & 0xff
      let green = UInt32(y * 255 / max(height - 1, 1)) & 0xff
      return red << 16 | green << 8 | UInt32(truncatingIfNeeded: frame * 11 & 0xff)
    case .pages:
      var random = SeededRandom(
        seed: UInt64(truncatingIfNeeded: frame) << 32 | UInt64((y * width + x) / 1024))
      return UInt32(truncatingIfNeeded: random.next()) & 0xffffff
    }
  }
}
