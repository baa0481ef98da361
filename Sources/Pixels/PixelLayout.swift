/// `DRM_FORMAT_MOD_LINEAR` of drm_fourcc.h, the only modifier of guest pages.
public let linearModifier: UInt64 = 0

/// The most that a sink may be told of a picture: what the frame protocol's header calls
/// `PINHOLE_MAX_SIZE`, `PINHOLE_MAX_STRIDE` and `PINHOLE_MAX_BYTES`, as a test compares.
///
/// The device checks what a guest says against it, so that no sink has to.
public enum PictureLimits {
  /// Pixels across or down.
  public static let side: UInt32 = 16_384
  /// Bytes from one row to the next.
  public static let stride: UInt32 = 1 << 18
  /// Bytes of the memory that holds a picture.
  public static let bytes: UInt64 = 1 << 33
}

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

  /// Bytes from the start of the memory to the end of the last pixel, which need not fill its
  /// row; `.max` where that is more than 64 bits hold.
  public var end: UInt64 {
    guard width > 0, height > 0 else { return offset }
    let before = UInt64(height - 1) * UInt64(stride)
    let (rows, overflow) = before.addingReportingOverflow(UInt64(width) * 4)
    let (end, wrapped) = rows.addingReportingOverflow(offset)
    return overflow || wrapped ? .max : end
  }
}

/// Where one plane of an image lies.
public struct PixelPlane: Equatable, Sendable {
  /// Which descriptor holds it, from 0.
  public let descriptor: UInt32
  /// Bytes from one row to the next.
  public let stride: UInt32
  /// Bytes from the start of the descriptor's memory to the first row.
  public let offset: UInt64

  /// Describes a plane; nothing is checked.
  public init(descriptor: UInt32 = 0, stride: UInt32, offset: UInt64 = 0) {
    self.descriptor = descriptor
    self.stride = stride
    self.offset = offset
  }
}

/// How any image lies in memory that may be a GPU's: formats, planes and modifiers as
/// drm_fourcc.h has them.
public struct ImageLayout: Equatable, Sendable {
  /// Pixels in a row.
  public let width: UInt32
  /// Rows.
  public let height: UInt32
  /// The pixel format.
  public let fourcc: FourCC
  /// `DRM_FORMAT_MOD_*`.
  public let modifier: UInt64
  /// At least one.
  public let planes: [PixelPlane]

  /// Describes an image; nothing is checked.
  public init(
    width: UInt32, height: UInt32, fourcc: FourCC, modifier: UInt64 = linearModifier,
    planes: [PixelPlane]
  ) {
    self.width = width
    self.height = height
    self.fourcc = fourcc
    self.modifier = modifier
    self.planes = planes
  }

  /// A picture in one plane, 4 bytes a pixel, linear.
  public init(_ layout: PixelLayout) {
    self.init(
      width: layout.width, height: layout.height, fourcc: layout.fourcc,
      planes: [PixelPlane(stride: layout.stride, offset: layout.offset)])
  }

  /// The same for the CPU; nil unless it is linear, in one plane, and of a format with 4 bytes a
  /// pixel.
  public var packed: PixelLayout? {
    guard modifier == linearModifier, planes.count == 1, let plane = planes.first,
      FourCC.packed.contains(fourcc)
    else { return nil }
    return PixelLayout(
      width: width, height: height, stride: plane.stride, offset: plane.offset, fourcc: fourcc)
  }
}
