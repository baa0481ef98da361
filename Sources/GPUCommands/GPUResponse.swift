import Pixels

/// What a request is answered with (virtio 1.3 §5.7.6.7).
public enum GPUResponse: Equatable, Sendable {
  /// `VIRTIO_GPU_RESP_OK_NODATA`.
  case ok
  /// `VIRTIO_GPU_RESP_OK_DISPLAY_INFO`.
  case displayInfo([Display])
  /// `VIRTIO_GPU_RESP_OK_CAPSET_INFO`: size is in bytes.
  case capsetInfo(id: UInt32, maxVersion: UInt32, maxSize: UInt32)
  /// `VIRTIO_GPU_RESP_OK_CAPSET`.
  case capset([UInt8])
  /// `VIRTIO_GPU_RESP_OK_EDID`: at most 1024 bytes.
  case edid([UInt8])
  /// `VIRTIO_GPU_RESP_OK_RESOURCE_UUID`: 16 bytes.
  case uuid([UInt8])
  /// `VIRTIO_GPU_RESP_ERR_*`.
  case error(GPUError)

  /// What the host would like an output to be, `struct virtio_gpu_display_one`.
  public struct Display: Equatable, Sendable {
    /// Place and size in pixels.
    public let rect: Rect
    /// Whether it is connected.
    public let isEnabled: Bool
    /// Of which virtio defines no bit.
    public let flags: UInt32

    /// Describes an output.
    public init(rect: Rect, isEnabled: Bool, flags: UInt32) {
      self.rect = rect
      self.isEnabled = isEnabled
      self.flags = flags
    }
  }

  private var type: UInt32 {
    switch self {
    case .ok: 0x1100
    case .displayInfo: 0x1101
    case .capsetInfo: 0x1102
    case .capset: 0x1103
    case .edid: 0x1104
    case .uuid: 0x1105
    case .error(let error): error.rawValue
    }
  }

  /// Whether it tells more than that something is done or not.
  public var hasData: Bool {
    switch self {
    case .ok, .error: false
    default: true
    }
  }

  /// Calls a function with the bytes of the answer to a request; nothing is allocated where there
  /// is no data.
  public func withBytes<R>(
    answering header: GPUHeader, _ body: (UnsafeRawBufferPointer) -> R
  ) -> R {
    let head = head(answering: header)
    return head.span.withUnsafeBytes { raw in
      hasData ? (Array(raw) + data).withUnsafeBytes(body) : body(raw)
    }
  }

  /// The six words of a header; fence, context and ring are echoed to fenced requests only.
  private func head(answering header: GPUHeader) -> InlineArray<6, UInt32> {
    var words: InlineArray<6, UInt32> = .init(repeating: 0)
    words[0] = type.littleEndian
    guard header.isFenced else { return words }
    words[1] = (header.flags & (GPUHeader.fenceFlag | GPUHeader.ringFlag)).littleEndian
    words[2] = UInt32(truncatingIfNeeded: header.fence).littleEndian
    words[3] = UInt32(truncatingIfNeeded: header.fence >> 32).littleEndian
    words[4] = header.context.littleEndian
    words[5] = UInt32(header.ring).littleEndian
    return words
  }

  private var data: [UInt8] {
    switch self {
    case .ok, .error: return []
    case .displayInfo(let displays):
      let missing = max(0, Self.displays - displays.count)
      let none = [UInt8](repeating: 0, count: missing * 24)
      return Self.words(
        displays.prefix(Self.displays).flatMap { display in
          [
            display.rect.x, display.rect.y, display.rect.width, display.rect.height,
            display.isEnabled ? 1 : 0, display.flags,
          ]
        }) + none
    case .capsetInfo(let id, let version, let size): return Self.words([id, version, size, 0])
    case .capset(let bytes): return bytes
    case .edid(let bytes):
      let bytes = bytes.prefix(Self.edidSize)
      let rest = [UInt8](repeating: 0, count: Self.edidSize - bytes.count)
      return Self.words([UInt32(bytes.count), 0]) + bytes + rest
    case .uuid(let bytes): return bytes
    }
  }

  /// `VIRTIO_GPU_MAX_SCANOUTS`.
  private static let displays = 16
  /// Bytes that every EDID takes.
  private static let edidSize = 1024

  private static func words(_ words: [UInt32]) -> [UInt8] {
    words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(8 * $0)) } }
  }
}

/// Why a request is not done, `VIRTIO_GPU_RESP_ERR_*`.
public enum GPUError: UInt32, Error, Sendable {
  /// Without a name of its own.
  case unspecified = 0x1200
  /// The device has no memory for it.
  case outOfMemory
  /// There is no such scanout.
  case invalidScanout
  /// There is no such resource, or there is one already.
  case invalidResource
  /// There is no such context, or there is one already.
  case invalidContext
  /// A number makes no sense.
  case invalidParameter
}
