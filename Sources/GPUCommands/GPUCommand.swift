import Pixels

/// A request of a guest, decoded and not judged: numbers are what the guest says
/// (virtio 1.3 §5.7.6.8 and §5.7.6.10).
public enum GPUCommand: Equatable, Sendable {
  /// GET_DISPLAY_INFO.
  case getDisplayInfo
  /// GET_EDID.
  case getEDID(scanout: UInt32)
  /// RESOURCE_CREATE_2D.
  case createImage(CreateImage)
  /// RESOURCE_CREATE_BLOB.
  case createBlob(CreateBlob)
  /// RESOURCE_UNREF.
  case unref(resource: UInt32)
  /// RESOURCE_ATTACH_BACKING.
  case attachBacking(resource: UInt32, MemoryEntries)
  /// RESOURCE_DETACH_BACKING.
  case detachBacking(resource: UInt32)
  /// TRANSFER_TO_HOST_2D.
  case transferToHost(Transfer2D)
  /// SET_SCANOUT.
  case setScanout(SetScanout)
  /// SET_SCANOUT_BLOB.
  case setScanoutBlob(SetScanoutBlob)
  /// RESOURCE_FLUSH.
  case flush(resource: UInt32, Rect)
  /// RESOURCE_ASSIGN_UUID.
  case assignUUID(resource: UInt32)
  /// RESOURCE_MAP_BLOB.
  case mapBlob(resource: UInt32, offset: UInt64)
  /// RESOURCE_UNMAP_BLOB.
  case unmapBlob(resource: UInt32)
  /// GET_CAPSET_INFO.
  case getCapsetInfo(index: UInt32)
  /// GET_CAPSET.
  case getCapset(id: UInt32, version: UInt32)
  /// CTX_CREATE.
  case createContext(CreateContext)
  /// CTX_DESTROY.
  case destroyContext(context: UInt32)
  /// CTX_ATTACH_RESOURCE.
  case attachToContext(context: UInt32, resource: UInt32)
  /// CTX_DETACH_RESOURCE.
  case detachFromContext(context: UInt32, resource: UInt32)
  /// RESOURCE_CREATE_3D.
  case createResource(UInt32, ResourceShape)
  /// TRANSFER_TO_HOST_3D, or TRANSFER_FROM_HOST_3D.
  case transfer3D(Transfer3D, toHost: Bool)
  /// SUBMIT_3D.
  case submit(context: UInt32, CommandBytes)
  /// UPDATE_CURSOR.
  case updateCursor(CursorRequest)
  /// MOVE_CURSOR.
  case moveCursor(CursorRequest)
}

/// `struct virtio_gpu_resource_create_2d`.
public struct CreateImage: Equatable, Sendable {
  /// Its name from now on.
  public let resource: UInt32
  /// `enum virtio_gpu_formats`.
  public let format: UInt32
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
}

/// `struct virtio_gpu_resource_create_blob`.
public struct CreateBlob: Equatable, Sendable {
  /// `VIRTIO_GPU_BLOB_MEM_GUEST`.
  public static let guestMemory: UInt32 = 1

  /// Its name from now on.
  public let resource: UInt32
  /// `VIRTIO_GPU_BLOB_MEM_*`.
  public let memory: UInt32
  /// `VIRTIO_GPU_BLOB_FLAG_*`.
  public let flags: UInt32
  /// Which object of the context's, for memory of the host's.
  public let blob: UInt64
  /// Bytes.
  public let size: UInt64
  /// Its pages.
  public let entries: MemoryEntries
}

/// `struct virtio_gpu_mem_entry`, so many of them, behind a request's fixed part.
public struct MemoryEntries: Equatable, Sendable {
  /// Bytes of one.
  public static let entrySize = 16
  /// Bytes from the start of the request.
  public let offset: Int
  /// How many the guest says there are.
  public let count: UInt32
  /// Bytes that so many take.
  public var byteCount: Int { Int(count) * Self.entrySize }

  /// Reads the entries that are whole.
  public static func decode(_ bytes: UnsafeRawBufferPointer) -> [(address: UInt64, count: UInt32)] {
    stride(from: 0, to: bytes.count - bytes.count % entrySize, by: entrySize).map { at in
      (
        UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: at, as: UInt64.self)),
        UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: at + 8, as: UInt32.self))
      )
    }
  }
}

/// `struct virtio_gpu_transfer_to_host_2d`.
public struct Transfer2D: Equatable, Sendable {
  /// Which part of the resource.
  public let rect: Rect
  /// Bytes into its pages.
  public let offset: UInt64
  /// Which resource.
  public let resource: UInt32
}

/// `struct virtio_gpu_set_scanout`.
public struct SetScanout: Equatable, Sendable {
  /// Which part of the resource.
  public let rect: Rect
  /// Which output, from 0.
  public let scanout: UInt32
  /// Which resource; 0 for none.
  public let resource: UInt32
}

/// `struct virtio_gpu_set_scanout_blob`; of its four planes the first.
public struct SetScanoutBlob: Equatable, Sendable {
  /// Which part of the picture.
  public let rect: Rect
  /// Which output, from 0.
  public let scanout: UInt32
  /// Which resource; 0 for none.
  public let resource: UInt32
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// `enum virtio_gpu_formats`.
  public let format: UInt32
  /// Bytes from row to row.
  public let stride: UInt32
  /// Bytes to the first row.
  public let offset: UInt32
}

/// `struct virtio_gpu_ctx_create`.
public struct CreateContext: Equatable, Sendable {
  /// Its name from now on.
  public let context: UInt32
  /// `context_init`, whose low byte is a capset's id.
  public let flags: UInt32
  /// For people, at most 64 bytes of whatever the guest likes.
  public let name: [UInt8]
}

/// The commands of a `struct virtio_gpu_cmd_submit`, behind its fixed part.
public struct CommandBytes: Equatable, Sendable {
  /// Bytes from the start of the request.
  public let offset: Int
  /// How many the guest says there are.
  public let count: UInt32
}

/// `struct virtio_gpu_update_cursor`.
public struct CursorRequest: Equatable, Sendable {
  /// Which output, from 0.
  public let scanout: UInt32
  /// Where the hot spot is, in pixels of the output.
  public let x: Int32
  /// Where the hot spot is, in pixels of the output.
  public let y: Int32
  /// The image; 0 for none.
  public let resource: UInt32
  /// The hot spot in the image.
  public let hotX: Int32
  /// The hot spot in the image.
  public let hotY: Int32
}
