/// A pixel format code as drm_fourcc.h writes it.
public struct FourCC: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
  /// The code, first letter in the low byte.
  public let rawValue: UInt32
  /// Wraps a `DRM_FORMAT_*` code.
  public init(rawValue: UInt32) { self.rawValue = rawValue }

  /// The code of four ASCII letters.
  public init(_ a: Unicode.Scalar, _ b: Unicode.Scalar, _ c: Unicode.Scalar, _ d: Unicode.Scalar) {
    rawValue = a.value & 255 | (b.value & 255) << 8 | (c.value & 255) << 16 | (d.value & 255) << 24
  }

  /// `DRM_FORMAT_XRGB8888`: bytes B, G, R, x in memory.
  public static let xrgb8888 = FourCC("X", "R", "2", "4")
  /// `DRM_FORMAT_ARGB8888`: bytes B, G, R, A in memory.
  public static let argb8888 = FourCC("A", "R", "2", "4")
  /// `DRM_FORMAT_BGRX8888`: bytes x, R, G, B in memory.
  public static let bgrx8888 = FourCC("B", "X", "2", "4")
  /// `DRM_FORMAT_BGRA8888`: bytes A, R, G, B in memory.
  public static let bgra8888 = FourCC("B", "A", "2", "4")
  /// `DRM_FORMAT_XBGR8888`: bytes R, G, B, x in memory.
  public static let xbgr8888 = FourCC("X", "B", "2", "4")
  /// `DRM_FORMAT_ABGR8888`: bytes R, G, B, A in memory.
  public static let abgr8888 = FourCC("A", "B", "2", "4")
  /// `DRM_FORMAT_RGBX8888`: bytes x, B, G, R in memory.
  public static let rgbx8888 = FourCC("R", "X", "2", "4")
  /// `DRM_FORMAT_RGBA8888`: bytes A, B, G, R in memory.
  public static let rgba8888 = FourCC("R", "A", "2", "4")

  /// The eight formats of virtio-gpu and of a 2D guest's pictures, all of 4 bytes a pixel.
  public static let packed: [FourCC] = [
    .xrgb8888, .argb8888, .bgrx8888, .bgra8888, .xbgr8888, .abgr8888, .rgbx8888, .rgba8888,
  ]

  /// The four letters; `?` for what cannot be printed.
  public var description: String {
    var text = ""
    for shift in [0, 8, 16, 24] as [UInt32] {
      let byte = UInt8(truncatingIfNeeded: rawValue >> shift)
      text.unicodeScalars.append((0x20...0x7e).contains(byte) ? Unicode.Scalar(byte) : "?")
    }
    return text
  }
}
