/// Where the channels of a 4 byte pixel lie in memory, as drm_fourcc.h says.
public struct ByteOrder: Equatable, Sendable {
  /// The byte with red.
  public let red: Int
  /// The byte with green.
  public let green: Int
  /// The byte with blue.
  public let blue: Int
  /// The byte with alpha; nil where pixels are opaque.
  public let alpha: Int?

  /// The order of a format; nil if it is not one of ``FourCC/packed``.
  public init?(_ fourcc: FourCC) {
    switch fourcc {
    case .xrgb8888: (red, green, blue, alpha) = (2, 1, 0, nil)
    case .argb8888: (red, green, blue, alpha) = (2, 1, 0, 3)
    case .xbgr8888: (red, green, blue, alpha) = (0, 1, 2, nil)
    case .abgr8888: (red, green, blue, alpha) = (0, 1, 2, 3)
    case .bgrx8888: (red, green, blue, alpha) = (1, 2, 3, nil)
    case .bgra8888: (red, green, blue, alpha) = (1, 2, 3, 0)
    case .rgbx8888: (red, green, blue, alpha) = (3, 2, 1, nil)
    case .rgba8888: (red, green, blue, alpha) = (3, 2, 1, 0)
    default: return nil
    }
  }

  /// Reorders pixels of this order in place: bytes B, G, R, A, alpha 255 where there is none.
  public func makeARGB8888(_ pixels: inout [UInt8]) {
    for i in stride(from: 0, to: pixels.count - pixels.count % 4, by: 4) {
      let (b, g, r) = (pixels[i + blue], pixels[i + green], pixels[i + red])
      let a = alpha.map { pixels[i + $0] } ?? 255
      pixels[i] = b
      pixels[i + 1] = g
      pixels[i + 2] = r
      pixels[i + 3] = a
    }
  }

  /// Copies rows of pixels out of memory as bytes R, G, B, A, alpha 255 where there is none.
  ///
  /// - Parameters:
  ///   - bytes: the memory that holds the pixels.
  ///   - layout: where they lie in it.
  /// - Returns: `width * height * 4` bytes; nil if the pixels do not fit in the memory or there
  ///   are none.
  public static func rgba(of bytes: UnsafeRawBufferPointer, _ layout: PixelLayout) -> [UInt8]? {
    guard let order = ByteOrder(layout.fourcc), layout.width > 0, layout.height > 0,
      UInt64(layout.stride) >= UInt64(layout.width) * 4,
      let offset = Int(exactly: layout.offset),
      let end = Int(exactly: layout.end), end <= bytes.count
    else { return nil }
    let (width, height, stride) = (Int(layout.width), Int(layout.height), Int(layout.stride))
    return [UInt8](unsafeUninitializedCapacity: width * height * 4) { out, count in
      var to = 0
      for y in 0..<height {
        var from = offset + y * stride
        for _ in 0..<width {
          out[to] = bytes[from + order.red]
          out[to + 1] = bytes[from + order.green]
          out[to + 2] = bytes[from + order.blue]
          out[to + 3] = order.alpha.map { bytes[from + $0] } ?? 255
          from += 4
          to += 4
        }
      }
      count = to
    }
  }
}
