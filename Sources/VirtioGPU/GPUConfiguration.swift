import Pixels

/// How a device behaves and what its guest may use.
public struct GPUConfiguration: Sendable {
  /// How 2D resources and blobs are shown.
  public var mode: ScanoutMode = .auto
  /// Outputs when no front-end says how many there are, at most 16 (`VIRTIO_GPU_MAX_SCANOUTS`).
  public var outputs: UInt32 = 1
  /// The size of a headless output in pixels; a width that is a multiple of 64 suits most GPUs.
  public var width: UInt32 = 1280
  /// See ``width``.
  public var height: UInt32 = 800
  /// Bytes of host memory that pictures of the guest may take.
  public var hostMemory: UInt64 = 512 << 20
  /// Bytes of host memory that copies for consumers may take.
  public var copyMemory: UInt64 = 512 << 20
  /// Resources that may exist at a time.
  public var maxResources = 4096
  /// Memory entries that one resource may have.
  public var maxEntries: UInt32 = 65536
  /// 3D contexts that may exist at a time: one for each program that draws.
  public var maxContexts = 64
  /// Bytes that 3D resources may take in the renderer, as they are reckoned here.
  public var renderMemory: UInt64 = 2 << 30
  /// Bytes of commands that one SUBMIT_3D may carry.
  public var maxSubmit: UInt32 = 16 << 20
  /// Pixels in either direction that a picture may have, at most ``PictureLimits/side``.
  public var maxDimension: UInt32 = PictureLimits.side
  /// Copies of one output's picture that consumers may hold, for each kind of alignment.
  public var maxCopies = 6
  /// Nanoseconds between looks at the pages of exported buffers.
  public var scanInterval: UInt64 = 5_000_000
  /// Whether they go on where flushes, each of which looks, come steadily.
  public var looksAlways = false

  /// The defaults.
  public init() {}
}

/// The number of scanouts that virtio 1.3 §5.7.6.8 allows.
public let maxScanouts = 16
