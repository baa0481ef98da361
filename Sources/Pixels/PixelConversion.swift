/// Turns pixels of any virtio-gpu format into `DRM_FORMAT_XRGB8888`: bytes B, G, R, x.
///
/// What the fourth byte holds afterwards is undefined, as the format says.
public enum PixelConversion: Equatable, Sendable {
  /// The bytes are right as they are.
  case none
  /// Bytes R, G, B, x: the first and third byte change places.
  case swapRedBlue
  /// Bytes x, R, G, B: the order is reversed.
  case reverse
  /// Bytes x, B, G, R: everything moves one byte forward.
  case dropFirst

  /// What a format needs; nil if it is not one of virtio-gpu's.
  public init?(from format: FourCC) {
    switch format {
    case .xrgb8888, .argb8888: self = .none
    case .xbgr8888, .abgr8888: self = .swapRedBlue
    case .bgrx8888, .bgra8888: self = .reverse
    case .rgbx8888, .rgba8888: self = .dropFirst
    default: return nil
    }
  }

  /// Converts pixels in place.
  ///
  /// - Parameters:
  ///   - pixels: 4 bytes each, at any address.
  ///   - count: pixels.
  public func apply(to pixels: UnsafeMutableRawPointer, count: Int) {
    switch self {
    case .none: return
    case .swapRedBlue:
      convert(pixels, count) { wide in
        wide & Self.wide(0xff00_ff00) | (wide &>> 16) & Self.wide(0xff)
          | (wide & Self.wide(0xff)) &<< 16
      } one: {
        $0 & 0xff00_ff00 | $0 >> 16 & 0xff | ($0 & 0xff) << 16
      }
    case .reverse:
      convert(pixels, count) { wide in
        wide &>> 24 | (wide &>> 8) & Self.wide(0xff00) | (wide &<< 8) & Self.wide(0xff_0000)
          | wide &<< 24
      } one: {
        $0.byteSwapped
      }
    case .dropFirst:
      convert(pixels, count) {
        $0 &>> 8
      } one: {
        $0 >> 8
      }
    }
  }

  private typealias Wide = SIMD8<UInt32>

  @inline(__always)
  private static func wide(_ value: UInt32) -> Wide { Wide(repeating: value) }

  /// Visits 8 pixels at a time and the rest one by one.
  @inline(__always)
  private func convert(
    _ pixels: UnsafeMutableRawPointer, _ count: Int, eight: (Wide) -> Wide,
    one: (UInt32) -> UInt32
  ) {
    var at = 0
    let end = max(count, 0) * 4
    while at <= end - 32 {
      let word = pixels.loadUnaligned(fromByteOffset: at, as: Wide.self)
      pixels.storeBytes(of: eight(word), toByteOffset: at, as: Wide.self)
      at += 32
    }
    while at <= end - 4 {
      let word = pixels.loadUnaligned(fromByteOffset: at, as: UInt32.self)
      pixels.storeBytes(of: one(word), toByteOffset: at, as: UInt32.self)
      at += 4
    }
  }
}
