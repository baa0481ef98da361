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

  /// The four letters.
  public var description: String {
    var text = ""
    for shift in [0, 8, 16, 24] as [UInt32] {
      text.unicodeScalars.append(Unicode.Scalar(UInt8(rawValue >> shift & 255)))
    }
    return text
  }
}

/// `DRM_FORMAT_MOD_LINEAR` of drm_fourcc.h, the only modifier of guest pages.
public let linearModifier: UInt64 = 0

/// How the pixels of a picture lie in its memory: one plane, 4 bytes a pixel, linear.
public struct PixelLayout: Equatable, Sendable {
  /// Pixels in a row.
  public let width: UInt32
  /// Rows.
  public let height: UInt32
  /// Bytes from one row to the next.
  public let stride: UInt32
  /// Bytes from the start of the memory to the first pixel.
  public let offset: UInt64
  /// The pixel format.
  public let fourcc: FourCC

  /// Describes a picture; nothing is checked.
  public init(width: UInt32, height: UInt32, stride: UInt32, offset: UInt64 = 0, fourcc: FourCC) {
    self.width = width
    self.height = height
    self.stride = stride
    self.offset = offset
    self.fourcc = fourcc
  }

  /// Bytes from the start of the memory to the end of the last row.
  ///
  /// 32 bit dimensions below 2^16 keep this exact; larger ones saturate.
  public var size: UInt64 {
    let (bytes, overflow) = UInt64(stride).multipliedReportingOverflow(by: UInt64(height))
    let (end, wrapped) = bytes.addingReportingOverflow(offset)
    return overflow || wrapped ? .max : end
  }
}

/// A rectangle of pixels.
public struct Rect: Equatable, Sendable {
  /// Left edge.
  public var x: UInt32
  /// Top edge.
  public var y: UInt32
  /// Pixels across.
  public var width: UInt32
  /// Pixels down.
  public var height: UInt32

  /// Makes a rectangle; nothing is checked.
  public init(x: UInt32, y: UInt32, width: UInt32, height: UInt32) {
    self.x = x
    self.y = y
    self.width = width
    self.height = height
  }

  /// Nothing is inside.
  public var isEmpty: Bool { width == 0 || height == 0 }

  /// Whether all of it lies inside `0..<width` and `0..<height`.
  public func fits(width limitX: UInt32, height limitY: UInt32) -> Bool {
    UInt64(x) + UInt64(width) <= UInt64(limitX) && UInt64(y) + UInt64(height) <= UInt64(limitY)
  }

  /// The part that both share, nil if there is none.
  public func intersection(_ other: Rect) -> Rect? {
    let left = max(x, other.x)
    let top = max(y, other.y)
    let right = min(UInt64(x) + UInt64(width), UInt64(other.x) + UInt64(other.width))
    let bottom = min(UInt64(y) + UInt64(height), UInt64(other.y) + UInt64(other.height))
    guard right > UInt64(left), bottom > UInt64(top) else { return nil }
    return Rect(
      x: left, y: top, width: UInt32(right - UInt64(left)), height: UInt32(bottom - UInt64(top)))
  }

  /// The smallest rectangle around both.
  public func union(_ other: Rect) -> Rect {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let left = min(x, other.x)
    let top = min(y, other.y)
    let right = max(UInt64(x) + UInt64(width), UInt64(other.x) + UInt64(other.width))
    let bottom = max(UInt64(y) + UInt64(height), UInt64(other.y) + UInt64(other.height))
    return Rect(
      x: left, y: top, width: UInt32(clamping: right - UInt64(left)),
      height: UInt32(clamping: bottom - UInt64(top)))
  }
}
