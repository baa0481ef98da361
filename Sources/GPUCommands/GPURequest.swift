import Pixels

/// A host copy of a request's fixed part, of which the guest may have written anything.
///
/// All numbers on the wire are little endian.
public struct GPURequest {
  /// The longest fixed part: SET_SCANOUT_BLOB, CTX_CREATE.
  public static let capacity = 96
  private var bytes: InlineArray<96, UInt8> = .init(repeating: 0)
  private var count = 0

  /// An empty one.
  public init() {}

  /// Copies a request in; `read` fills the buffer and returns how many bytes there were.
  public mutating func load(_ read: (UnsafeMutableRawBufferPointer) -> Int) {
    var span = bytes.mutableSpan
    span.withUnsafeMutableBytes { count = max(0, min(read($0), $0.count)) }
  }

  /// What it begins with; zero where it is shorter.
  public var header: GPUHeader {
    var header = GPUHeader()
    header.type = u32(0)
    header.flags = u32(4)
    header.fence = u64(8)
    header.context = u32(16)
    header.ring = UInt8(truncatingIfNeeded: u32(20))
    return header
  }

  /// Decodes it.
  ///
  /// - Throws: ``GPUError/unspecified`` where it is shorter than a header or of a type that virtio
  ///   does not know, ``GPUError/invalidParameter`` where it is shorter than its type says.
  public func command() throws(GPUError) -> GPUCommand {
    guard count >= GPUHeader.size, let type = CommandType(rawValue: u32(0)) else {
      throw .unspecified
    }
    guard count >= type.size else { throw .invalidParameter }
    switch type {
    case .createContext, .destroyContext, .attachToContext, .detachFromContext,
      .createResource3D, .transferToHost3D, .transferFromHost3D, .submit3D, .mapBlob, .unmapBlob,
      .getCapsetInfo, .getCapset:
      return command3D(type)
    case .updateCursor: return .updateCursor(cursor)
    case .moveCursor: return .moveCursor(cursor)
    default: return command2D(type)
    }
  }

  private func command2D(_ type: CommandType) -> GPUCommand {
    switch type {
    case .getEDID: return .getEDID(scanout: u32(24))
    case .createImage:
      return .createImage(
        CreateImage(resource: u32(24), format: u32(28), width: u32(32), height: u32(36)))
    case .createBlob:
      return .createBlob(
        CreateBlob(
          resource: u32(24), memory: u32(28), flags: u32(32), blob: u64(40), size: u64(48),
          entries: MemoryEntries(offset: type.size, count: u32(36))))
    case .unref: return .unref(resource: u32(24))
    case .attachBacking:
      return .attachBacking(
        resource: u32(24), MemoryEntries(offset: type.size, count: u32(28)))
    case .detachBacking: return .detachBacking(resource: u32(24))
    case .transferToHost:
      return .transferToHost(Transfer2D(rect: rect(24), offset: u64(40), resource: u32(48)))
    case .setScanout:
      return .setScanout(SetScanout(rect: rect(24), scanout: u32(40), resource: u32(44)))
    case .setScanoutBlob:
      return .setScanoutBlob(
        SetScanoutBlob(
          rect: rect(24), scanout: u32(40), resource: u32(44), width: u32(48), height: u32(52),
          format: u32(56), stride: u32(64), offset: u32(80)))
    case .flush: return .flush(resource: u32(40), rect(24))
    case .assignUUID: return .assignUUID(resource: u32(24))
    default: return .getDisplayInfo
    }
  }

  private func command3D(_ type: CommandType) -> GPUCommand {
    let context = u32(16)
    switch type {
    case .createContext:
      let length = min(Int(u32(24)), 64)
      return .createContext(
        CreateContext(context: context, flags: u32(28), name: (0..<length).map { bytes[32 + $0] }))
    case .attachToContext: return .attachToContext(context: context, resource: u32(24))
    case .detachFromContext: return .detachFromContext(context: context, resource: u32(24))
    case .createResource3D: return .createResource(u32(24), shape)
    case .transferToHost3D: return .transfer3D(transfer(context), toHost: true)
    case .transferFromHost3D: return .transfer3D(transfer(context), toHost: false)
    case .submit3D:
      return .submit(context: context, CommandBytes(offset: type.size, count: u32(24)))
    case .mapBlob: return .mapBlob(resource: u32(24), offset: u64(32))
    case .unmapBlob: return .unmapBlob(resource: u32(24))
    case .getCapsetInfo: return .getCapsetInfo(index: u32(24))
    case .getCapset: return .getCapset(id: u32(24), version: u32(28))
    default: return .destroyContext(context: context)
    }
  }

  private var cursor: CursorRequest {
    CursorRequest(
      scanout: u32(24), x: Int32(bitPattern: u32(28)), y: Int32(bitPattern: u32(32)),
      resource: u32(40), hotX: Int32(bitPattern: u32(44)), hotY: Int32(bitPattern: u32(48)))
  }

  /// `struct virtio_gpu_resource_create_3d`.
  private var shape: ResourceShape {
    var shape = ResourceShape()
    shape.target = u32(28)
    shape.format = u32(32)
    shape.bind = u32(36)
    shape.width = u32(40)
    shape.height = u32(44)
    shape.depth = u32(48)
    shape.arraySize = u32(52)
    shape.lastLevel = u32(56)
    shape.samples = u32(60)
    shape.flags = u32(64)
    return shape
  }

  /// `struct virtio_gpu_transfer_host_3d`.
  private func transfer(_ context: UInt32) -> Transfer3D {
    var transfer = Transfer3D()
    transfer.context = context
    transfer.box.x = u32(24)
    transfer.box.y = u32(28)
    transfer.box.z = u32(32)
    transfer.box.width = u32(36)
    transfer.box.height = u32(40)
    transfer.box.depth = u32(44)
    transfer.offset = u64(48)
    transfer.resource = u32(56)
    transfer.level = u32(60)
    transfer.stride = u32(64)
    transfer.layerStride = u32(68)
    return transfer
  }

  /// Reads past the end give zero.
  private func u32(_ offset: Int) -> UInt32 {
    guard offset >= 0, offset + 4 <= count else { return 0 }
    return bytes.span.withUnsafeBytes {
      UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
    }
  }

  private func u64(_ offset: Int) -> UInt64 {
    UInt64(u32(offset)) | UInt64(u32(offset + 4)) << 32
  }

  private func rect(_ offset: Int) -> Rect {
    Rect(
      x: u32(offset), y: u32(offset + 4), width: u32(offset + 8), height: u32(offset + 12))
  }
}

/// `VIRTIO_GPU_CMD_*`.
enum CommandType: UInt32, CaseIterable {
  case getDisplayInfo = 0x100
  case createImage
  case unref
  case setScanout
  case flush
  case transferToHost
  case attachBacking
  case detachBacking
  case getCapsetInfo
  case getCapset
  case getEDID
  case assignUUID
  case createBlob
  case setScanoutBlob
  case createContext = 0x200
  case destroyContext
  case attachToContext
  case detachFromContext
  case createResource3D
  case transferToHost3D
  case transferFromHost3D
  case submit3D
  case mapBlob
  case unmapBlob
  case updateCursor = 0x300
  case moveCursor

  /// Bytes of the fixed part of the request, header included.
  var size: Int {
    switch self {
    case .getDisplayInfo, .destroyContext: 24
    case .unref, .detachBacking, .attachBacking, .getCapsetInfo, .getCapset, .getEDID,
      .assignUUID, .attachToContext, .detachFromContext, .submit3D, .unmapBlob:
      32
    case .createImage, .mapBlob: 40
    case .setScanout, .flush: 48
    case .transferToHost, .createBlob, .updateCursor, .moveCursor: 56
    case .createResource3D, .transferToHost3D, .transferFromHost3D: 72
    case .setScanoutBlob, .createContext: 96
    }
  }
}
