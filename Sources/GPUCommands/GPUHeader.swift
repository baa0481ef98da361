/// What every request begins with, `struct virtio_gpu_ctrl_hdr` (virtio 1.3 §5.7.6.7).
public struct GPUHeader: Equatable, Sendable {
  /// Bytes of it.
  public static let size = 24
  /// `VIRTIO_GPU_FLAG_FENCE`.
  public static let fenceFlag: UInt32 = 1 << 0
  /// `VIRTIO_GPU_FLAG_INFO_RING_IDX`.
  public static let ringFlag: UInt32 = 1 << 1

  /// `VIRTIO_GPU_CMD_*`.
  public var type: UInt32 = 0
  /// `VIRTIO_GPU_FLAG_*`.
  public var flags: UInt32 = 0
  /// Names the fence, where there is one.
  public var fence: UInt64 = 0
  /// The 3D context that the request is about.
  public var context: UInt32 = 0
  /// The ring of the context, where the flags say that there is one.
  public var ring: UInt8 = 0

  /// All zero.
  public init() {}

  /// The guest waits for the answer, which means that all of the request's work is done.
  public var isFenced: Bool { flags & Self.fenceFlag != 0 }
  /// The fence belongs to a ring of a context.
  public var hasRing: Bool { flags & Self.ringFlag != 0 }
}
