import Pixels

/// In which order the bytes of a pixel lie in memory. What would be alpha is not looked at: a
/// screen has nothing behind it.
public enum OpaqueOrder: String, Sendable, CaseIterable {
  /// As `DRM_FORMAT_XRGB8888` has it.
  case bgrx
  /// As `DRM_FORMAT_XBGR8888`.
  case rgbx
  /// As `DRM_FORMAT_BGRX8888`.
  case xrgb
  /// As `DRM_FORMAT_RGBX8888`.
  case xbgr

  /// The order of a format of drm_fourcc.h, nil for formats without 8 bits a channel.
  public init?(_ fourcc: FourCC) {
    switch fourcc {
    case .xrgb8888, .argb8888: self = .bgrx
    case .xbgr8888, .abgr8888: self = .rgbx
    case .bgrx8888, .bgra8888: self = .xrgb
    case .rgbx8888, .rgba8888: self = .xbgr
    default: return nil
    }
  }
}
