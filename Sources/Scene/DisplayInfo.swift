import Buffers
import Pixels

/// What the host would like one output to be: `struct virtio_gpu_display_one` of virtio 1.3
/// §5.7.6.8.
public struct DisplayMode: Equatable, Sendable {
  /// Position among the other outputs and preferred size, in pixels.
  public var rect: Rect
  /// Whether the output is connected.
  public var isEnabled: Bool
  /// The `flags` field, of which virtio defines no bit.
  public var flags: UInt32

  /// Makes a mode; nothing is checked.
  public init(rect: Rect, isEnabled: Bool, flags: UInt32 = 0) {
    self.rect = rect
    self.isEnabled = isEnabled
    self.flags = flags
  }
}

/// What the host would like all outputs to be: `struct virtio_gpu_resp_display_info`.
public struct DisplayInfo: Equatable, Sendable {
  /// `VIRTIO_GPU_MAX_SCANOUTS`.
  public static let outputs = 16
  /// One mode for each output the protocol has room for.
  public let modes: [DisplayMode]

  /// Takes up to ``outputs`` modes; outputs without one are disconnected.
  public init(modes: [DisplayMode]) {
    let off = DisplayMode(rect: Rect(x: 0, y: 0, width: 0, height: 0), isEnabled: false)
    let missing = max(0, Self.outputs - modes.count)
    self.modes = Array(modes.prefix(Self.outputs)) + Array(repeating: off, count: missing)
  }
}

/// Somebody who knows the host's displays: answers the guest's GET_DISPLAY_INFO and GET_EDID.
///
/// All calls and completions are in the event loop's thread. A completion runs exactly once,
/// perhaps before the call returns, and gets nil when nobody answers in time: the device then
/// uses its own answer.
public protocol DisplayInfoSource: AnyObject {
  /// Asks what the host would like the outputs to be.
  func displayInfo(_ completion: @escaping (DisplayInfo?) -> Void)

  /// Asks for the EDID of an output: 1 to 1024 bytes.
  func edid(output: Int, _ completion: @escaping ([UInt8]?) -> Void)
}
