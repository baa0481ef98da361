import Buffers

/// Requests and responses of the device, virtio 1.3 §5.7.6.7.
///
/// All numbers are little endian; offsets are bytes from the start of the request.
enum Wire {
  static let headerSize = 24
  static let fenceFlag: UInt32 = 1 << 0
  static let ringIndexFlag: UInt32 = 1 << 1
  /// The longest request without its entries: SET_SCANOUT_BLOB.
  static let largestRequest = 96
  static let entrySize = 16
  static let displayInfoSize = 24 + 16 * 24
  static let edidResponseSize = 24 + 8 + 1024
  static let uuidResponseSize = 24 + 16
}

/// Request types, `VIRTIO_GPU_CMD_*`.
enum CommandType: UInt32 {
  case getDisplayInfo = 0x100
  case resourceCreate2D
  case resourceUnref
  case setScanout
  case resourceFlush
  case transferToHost2D
  case resourceAttachBacking
  case resourceDetachBacking
  case getCapsetInfo
  case getCapset
  case getEDID
  case resourceAssignUUID
  case resourceCreateBlob
  case setScanoutBlob
  case updateCursor = 0x300
  case moveCursor

  /// Bytes of the fixed part of the request, header included.
  var size: Int {
    switch self {
    case .getDisplayInfo: return 24
    case .resourceCreate2D: return 40
    case .resourceUnref, .resourceDetachBacking, .resourceAttachBacking: return 32
    case .setScanout, .resourceFlush: return 48
    case .transferToHost2D: return 56
    case .getCapsetInfo, .getCapset, .getEDID, .resourceAssignUUID: return 32
    case .resourceCreateBlob: return 56
    case .setScanoutBlob: return 96
    case .updateCursor, .moveCursor: return 56
    }
  }
}

/// Response types, `VIRTIO_GPU_RESP_*`.
enum Response: UInt32, Error {
  case okNoData = 0x1100
  case okDisplayInfo
  case okCapsetInfo
  case okCapset
  case okEDID
  case okResourceUUID
  case unspecified = 0x1200
  case outOfMemory
  case invalidScanout
  case invalidResource
  case invalidContext
  case invalidParameter
}

/// The header of a request, `struct virtio_gpu_ctrl_hdr`.
struct RequestHeader {
  var type: UInt32 = 0
  var flags: UInt32 = 0
  var fence: UInt64 = 0
  var context: UInt32 = 0
  var ring: UInt8 = 0
  var isFenced: Bool { flags & Wire.fenceFlag != 0 }
}

/// A host copy of a request's fixed part; reads past its end give zero.
///
/// Callers compare `count` with ``CommandType/size`` before they read fields.
struct Request {
  private var bytes: InlineArray<96, UInt8> = .init(repeating: 0)
  private(set) var count = 0

  /// Copies a request in; `read` fills the buffer and returns how many bytes there were.
  mutating func load(_ read: (UnsafeMutableRawBufferPointer) -> Int) {
    var span = bytes.mutableSpan
    span.withUnsafeMutableBytes { count = min(read($0), $0.count) }
  }

  func u32(_ offset: Int) -> UInt32 {
    guard offset >= 0, offset + 4 <= count else { return 0 }
    return bytes.span.withUnsafeBytes {
      UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
  }

  func u64(_ offset: Int) -> UInt64 {
    UInt64(u32(offset)) | UInt64(u32(offset + 4)) << 32
  }

  func rect(_ offset: Int) -> Rect {
    Rect(
      x: u32(offset), y: u32(offset + 4), width: u32(offset + 8), height: u32(offset + 12))
  }

  var header: RequestHeader {
    RequestHeader(
      type: u32(0), flags: u32(4), fence: u64(8), context: u32(16),
      ring: UInt8(truncatingIfNeeded: u32(20)))
  }
}

/// Bytes of a response under construction.
struct ResponseBytes {
  private(set) var bytes: [UInt8] = []

  /// Starts a response of `size` bytes, all zero but its header.
  init(_ type: Response, size: Int = Wire.headerSize, answering header: RequestHeader) {
    bytes = [UInt8](repeating: 0, count: size)
    Self.header(type, answering: header).withUnsafeBytes { raw in
      for i in 0..<min(raw.count, size) { bytes[i] = raw[i] }
    }
  }

  mutating func put(_ value: UInt32, at offset: Int) {
    guard offset >= 0, offset + 4 <= bytes.count else { return }
    for i in 0..<4 { bytes[offset + i] = UInt8(truncatingIfNeeded: value >> UInt32(8 * i)) }
  }

  mutating func put(_ data: some Collection<UInt8>, at offset: Int) {
    guard offset >= 0, data.count <= bytes.count - offset else { return }
    bytes.replaceSubrange(offset..<(offset + data.count), with: data)
  }

  /// The six words of a header; fence, context and ring are echoed to fenced requests only.
  static func header(
    _ type: Response, answering request: RequestHeader
  ) -> InlineArray<6, UInt32> {
    var words: InlineArray<6, UInt32> = .init(repeating: 0)
    words[0] = type.rawValue.littleEndian
    guard request.isFenced else { return words }
    words[1] = (request.flags & (Wire.fenceFlag | Wire.ringIndexFlag)).littleEndian
    words[2] = UInt32(truncatingIfNeeded: request.fence).littleEndian
    words[3] = UInt32(truncatingIfNeeded: request.fence >> 32).littleEndian
    words[4] = request.context.littleEndian
    words[5] = UInt32(request.ring).littleEndian
    return words
  }
}

extension InlineArray where Element == UInt32 {
  /// The array's bytes in memory order.
  func withUnsafeBytes<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R {
    span.withUnsafeBytes(body)
  }
}
