import Pixels

/// Pixels for a display's own memory.
enum KMSPixels {
  /// Puts the bytes of each pixel in the order of `XRGB8888`.
  ///
  /// - Parameters:
  ///   - pixels: 4 bytes each.
  ///   - fourcc: their `DRM_FORMAT_*`.
  /// - Returns: false if the format is not known; the pixels are left as they are.
  static func convert(_ pixels: inout [UInt8], from fourcc: FourCC) -> Bool {
    guard let conversion = PixelConversion(from: fourcc) else { return false }
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      conversion.apply(to: base, count: bytes.count / 4)
    }
    return true
  }
}
