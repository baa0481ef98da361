import CLinux
import Pixels

/// The type word of a response, `VIRTIO_GPU_RESP_*` of `<linux/virtio_gpu.h>`.
package struct GPUResponse: Equatable, Hashable, Sendable, CustomStringConvertible {
  /// The word as it was received.
  package let rawValue: UInt32
  /// Wraps a type word.
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  private init(_ type: virtio_gpu_ctrl_type) { rawValue = UInt32(type.rawValue) }

  /// Done, nothing to say.
  package static let ok = GPUResponse(VIRTIO_GPU_RESP_OK_NODATA)
  /// The scanouts' modes follow.
  package static let okDisplayInfo = GPUResponse(VIRTIO_GPU_RESP_OK_DISPLAY_INFO)
  /// An EDID follows.
  package static let okEDID = GPUResponse(VIRTIO_GPU_RESP_OK_EDID)
  /// A UUID follows.
  package static let okUUID = GPUResponse(VIRTIO_GPU_RESP_OK_RESOURCE_UUID)
  /// An error without a name.
  package static let unspecified = GPUResponse(VIRTIO_GPU_RESP_ERR_UNSPEC)
  /// The device has no memory for it.
  package static let outOfMemory = GPUResponse(VIRTIO_GPU_RESP_ERR_OUT_OF_MEMORY)
  /// There is no such scanout.
  package static let invalidScanout = GPUResponse(VIRTIO_GPU_RESP_ERR_INVALID_SCANOUT_ID)
  /// There is no such resource, or there is one already.
  package static let invalidResource = GPUResponse(VIRTIO_GPU_RESP_ERR_INVALID_RESOURCE_ID)
  /// There is no such 3D context.
  package static let invalidContext = GPUResponse(VIRTIO_GPU_RESP_ERR_INVALID_CONTEXT_ID)
  /// A parameter makes no sense.
  package static let invalidParameter = GPUResponse(VIRTIO_GPU_RESP_ERR_INVALID_PARAMETER)

  /// One of the `OK` responses.
  package var isOK: Bool { rawValue & 0xff00 == 0x1100 }

  /// The name of the response, or its number.
  package var description: String {
    switch self {
    case .ok: "OK_NODATA"
    case .okDisplayInfo: "OK_DISPLAY_INFO"
    case .okEDID: "OK_EDID"
    case .okUUID: "OK_RESOURCE_UUID"
    case .unspecified: "ERR_UNSPEC"
    case .outOfMemory: "ERR_OUT_OF_MEMORY"
    case .invalidScanout: "ERR_INVALID_SCANOUT_ID"
    case .invalidResource: "ERR_INVALID_RESOURCE_ID"
    case .invalidContext: "ERR_INVALID_CONTEXT_ID"
    case .invalidParameter: "ERR_INVALID_PARAMETER"
    default: "response 0x" + String(rawValue, radix: 16)
    }
  }
}

/// Feature bits of virtio-gpu and of virtio that this driver knows, as bit masks.
package enum Feature {
  /// `VIRTIO_GPU_F_VIRGL`; a driver without 3D does not take it.
  package static let virgl: UInt64 = 1 << 0
  /// `VIRTIO_GPU_F_EDID`.
  package static let edid: UInt64 = 1 << 1
  /// `VIRTIO_GPU_F_RESOURCE_UUID`.
  package static let resourceUUID: UInt64 = 1 << 2
  /// `VIRTIO_GPU_F_RESOURCE_BLOB`.
  package static let resourceBlob: UInt64 = 1 << 3
  /// `VIRTIO_F_INDIRECT_DESC`.
  package static let indirect: UInt64 = 1 << 28
  /// `VIRTIO_F_EVENT_IDX`.
  package static let eventIndex: UInt64 = 1 << 29
  /// `VHOST_USER_F_PROTOCOL_FEATURES`, on the vhost-user socket only.
  package static let protocolFeatures: UInt64 = 1 << 30
  /// `VIRTIO_F_VERSION_1`.
  package static let version1: UInt64 = 1 << 32
  /// What a driver here takes if it is offered.
  package static let all = edid | resourceUUID | resourceBlob | indirect | eventIndex | version1
}

/// A pixel format, `enum virtio_gpu_formats`; names give the order in memory.
package enum PixelFormat: UInt32, CaseIterable, Sendable {
  case b8g8r8a8 = 1
  case b8g8r8x8 = 2
  case a8r8g8b8 = 3
  case x8r8g8b8 = 4
  case r8g8b8a8 = 67
  case x8b8g8r8 = 68
  case a8b8g8r8 = 121
  case r8g8b8x8 = 134

  /// A pixel of a ``Raster`` as it lies in memory.
  func stored(_ pixel: UInt32) -> UInt32 {
    switch self {
    case .b8g8r8a8, .b8g8r8x8: return pixel
    case .a8r8g8b8, .x8r8g8b8: return pixel.byteSwapped
    case .r8g8b8a8, .r8g8b8x8: return pixel.byteSwapped >> 8
    case .x8b8g8r8, .a8b8g8r8: return pixel << 8
    }
  }

  /// The pixel of a ``Raster`` that lies in memory so; its fourth byte is 0 where it was lost.
  func loaded(_ bytes: UInt32) -> UInt32 {
    switch self {
    case .b8g8r8a8, .b8g8r8x8: return bytes
    case .a8r8g8b8, .x8r8g8b8: return bytes.byteSwapped
    case .r8g8b8a8, .r8g8b8x8: return (bytes << 8).byteSwapped
    case .x8b8g8r8, .a8b8g8r8: return bytes >> 8
    }
  }
}

extension Rect {
  /// As virtio has it.
  var wire: virtio_gpu_rect { virtio_gpu_rect(x: x, y: y, width: width, height: height) }
}
