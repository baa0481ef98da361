import Buffers
import Pixels

/// The pixel formats of virtio-gpu: `enum virtio_gpu_formats`, virtio 1.3 §5.7.6.8.
///
/// virtio names the bytes in memory from first to last. DRM names a little-endian word from its
/// high bits down, which is the same bytes from last to first: ``b8g8r8x8`` is
/// `DRM_FORMAT_XRGB8888`.
public enum PixelFormat: UInt32, CaseIterable, Sendable {
  /// Bytes B, G, R, A.
  case b8g8r8a8 = 1
  /// Bytes B, G, R, x.
  case b8g8r8x8 = 2
  /// Bytes A, R, G, B.
  case a8r8g8b8 = 3
  /// Bytes x, R, G, B.
  case x8r8g8b8 = 4
  /// Bytes R, G, B, A.
  case r8g8b8a8 = 67
  /// Bytes x, B, G, R.
  case x8b8g8r8 = 68
  /// Bytes A, B, G, R.
  case a8b8g8r8 = 121
  /// Bytes R, G, B, x.
  case r8g8b8x8 = 134

  /// The same bytes by their name in drm_fourcc.h.
  public var fourcc: FourCC {
    switch self {
    case .b8g8r8a8: return .argb8888
    case .b8g8r8x8: return .xrgb8888
    case .a8r8g8b8: return .bgra8888
    case .x8r8g8b8: return .bgrx8888
    case .r8g8b8a8: return .abgr8888
    case .x8b8g8r8: return .rgbx8888
    case .a8b8g8r8: return .rgba8888
    case .r8g8b8x8: return .xbgr8888
    }
  }

  /// The format with this name in drm_fourcc.h; nil if virtio-gpu has none.
  public init?(fourcc: FourCC) {
    guard let format = Self.allCases.first(where: { $0.fourcc == fourcc }) else { return nil }
    self = format
  }
}
