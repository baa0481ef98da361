import CLinux
import Pixels

/// A request for the device, ready for a ring (virtio 1.3 §5.7.6.7).
///
/// The structures are those of `<linux/virtio_gpu.h>`; little-endian hosts only.
package struct GPUCommand: Sendable {
  /// Which of the device's two queues.
  package enum Queue: Int, Sendable {
    /// `controlq`.
    case control = 0
    /// `cursorq`.
    case cursor = 1
  }

  /// For messages.
  package let name: String
  /// The queue that it belongs on.
  package var queue: Queue
  /// The request.
  package var bytes: [UInt8]
  /// Bytes that the device may write.
  package var responseSize: Int
  /// Into how many device-readable descriptors the request is cut.
  package var pieces = 1

  /// A request made by hand, for drivers that misbehave.
  package init(
    raw bytes: [UInt8], responseSize: Int = 24, queue: Queue = .control, name: String = "raw"
  ) {
    self.name = name
    self.bytes = bytes
    self.responseSize = responseSize
    self.queue = queue
  }

  init<T>(
    _ name: String, _ body: T, then entries: [MemoryEntry] = [],
    responseSize: Int = MemoryLayout<virtio_gpu_ctrl_hdr>.size, queue: Queue = .control
  ) {
    self.name = name
    self.queue = queue
    self.responseSize = responseSize
    bytes = withUnsafeBytes(of: body) { [UInt8]($0) }
    bytes.reserveCapacity(bytes.count + entries.count * MemoryLayout<virtio_gpu_mem_entry>.size)
    for entry in entries {
      let wire = virtio_gpu_mem_entry(addr: entry.address, length: entry.length, padding: 0)
      withUnsafeBytes(of: wire) { bytes.append(contentsOf: $0) }
    }
  }

  private static func header(_ type: virtio_gpu_ctrl_type) -> virtio_gpu_ctrl_hdr {
    var header = virtio_gpu_ctrl_hdr()
    header.type = UInt32(type.rawValue)
    return header
  }

  /// The same request asking for a fence: the answer means that processing is complete.
  package func fenced(_ id: UInt64) -> GPUCommand {
    var copy = self
    copy.put(UInt32(VIRTIO_GPU_FLAG_FENCE), at: 4)
    copy.put(id, at: 8)
    return copy
  }

  /// The same request cut into several descriptors.
  package func cut(into pieces: Int) -> GPUCommand {
    var copy = self
    copy.pieces = pieces
    return copy
  }

  /// Overwrites a number of the request, for drivers that misbehave.
  package mutating func put<T: FixedWidthInteger>(_ value: T, at offset: Int) {
    guard offset + MemoryLayout<T>.size <= bytes.count else { return }
    withUnsafeBytes(of: value.littleEndian) {
      bytes.replaceSubrange(offset..<(offset + $0.count), with: $0)
    }
  }

  /// GET_DISPLAY_INFO.
  package static var getDisplayInfo: GPUCommand {
    GPUCommand(
      "GET_DISPLAY_INFO", header(VIRTIO_GPU_CMD_GET_DISPLAY_INFO),
      responseSize: MemoryLayout<virtio_gpu_resp_display_info>.size)
  }

  /// GET_EDID of a scanout.
  package static func getEDID(_ scanout: UInt32) -> GPUCommand {
    var c = virtio_gpu_cmd_get_edid()
    c.hdr = header(VIRTIO_GPU_CMD_GET_EDID)
    c.scanout = scanout
    return GPUCommand("GET_EDID", c, responseSize: MemoryLayout<virtio_gpu_resp_edid>.size)
  }

  /// RESOURCE_CREATE_2D.
  package static func create2D(
    _ resource: UInt32, _ format: PixelFormat, width: UInt32, height: UInt32
  ) -> GPUCommand {
    var c = virtio_gpu_resource_create_2d()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_CREATE_2D)
    c.resource_id = resource
    c.format = format.rawValue
    c.width = width
    c.height = height
    return GPUCommand("RESOURCE_CREATE_2D", c)
  }

  /// RESOURCE_UNREF.
  package static func unref(_ resource: UInt32) -> GPUCommand {
    var c = virtio_gpu_resource_unref()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_UNREF)
    c.resource_id = resource
    return GPUCommand("RESOURCE_UNREF", c)
  }

  /// RESOURCE_ATTACH_BACKING; `count` lies about the number of entries if given.
  package static func attachBacking(
    _ resource: UInt32, _ entries: [MemoryEntry], count: UInt32? = nil
  ) -> GPUCommand {
    var c = virtio_gpu_resource_attach_backing()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_ATTACH_BACKING)
    c.resource_id = resource
    c.nr_entries = count ?? UInt32(entries.count)
    return GPUCommand("RESOURCE_ATTACH_BACKING", c, then: entries)
  }

  /// RESOURCE_DETACH_BACKING.
  package static func detachBacking(_ resource: UInt32) -> GPUCommand {
    var c = virtio_gpu_resource_detach_backing()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_DETACH_BACKING)
    c.resource_id = resource
    return GPUCommand("RESOURCE_DETACH_BACKING", c)
  }

  /// SET_SCANOUT; resource 0 switches the scanout off.
  package static func setScanout(
    _ scanout: UInt32, resource: UInt32, _ rect: Rect
  ) -> GPUCommand {
    var c = virtio_gpu_set_scanout()
    c.hdr = header(VIRTIO_GPU_CMD_SET_SCANOUT)
    c.r = rect.wire
    c.scanout_id = scanout
    c.resource_id = resource
    return GPUCommand("SET_SCANOUT", c)
  }

  /// RESOURCE_FLUSH.
  package static func flush(_ resource: UInt32, _ rect: Rect) -> GPUCommand {
    var c = virtio_gpu_resource_flush()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_FLUSH)
    c.r = rect.wire
    c.resource_id = resource
    return GPUCommand("RESOURCE_FLUSH", c)
  }

  /// TRANSFER_TO_HOST_2D; `offset` is where the rectangle starts in the backing, in bytes.
  package static func transferToHost2D(
    _ resource: UInt32, _ rect: Rect, offset: UInt64
  ) -> GPUCommand {
    var c = virtio_gpu_transfer_to_host_2d()
    c.hdr = header(VIRTIO_GPU_CMD_TRANSFER_TO_HOST_2D)
    c.r = rect.wire
    c.offset = offset
    c.resource_id = resource
    return GPUCommand("TRANSFER_TO_HOST_2D", c)
  }

  /// RESOURCE_CREATE_BLOB of guest memory, shareable, as Linux makes its dumb buffers.
  package static func createBlob(
    _ resource: UInt32, size: UInt64, _ entries: [MemoryEntry],
    memory: UInt32 = UInt32(VIRTIO_GPU_BLOB_MEM_GUEST),
    flags: UInt32 = UInt32(VIRTIO_GPU_BLOB_FLAG_USE_SHAREABLE), count: UInt32? = nil
  ) -> GPUCommand {
    var c = virtio_gpu_resource_create_blob()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_CREATE_BLOB)
    c.resource_id = resource
    c.blob_mem = memory
    c.blob_flags = flags
    c.nr_entries = count ?? UInt32(entries.count)
    c.size = size
    return GPUCommand("RESOURCE_CREATE_BLOB", c, then: entries)
  }

  /// SET_SCANOUT_BLOB with one plane; `stride` and `offset` are in bytes.
  package static func setScanoutBlob(
    _ scanout: UInt32, resource: UInt32, _ rect: Rect, format: PixelFormat, width: UInt32,
    height: UInt32, stride: UInt32, offset: UInt32 = 0
  ) -> GPUCommand {
    var c = virtio_gpu_set_scanout_blob()
    c.hdr = header(VIRTIO_GPU_CMD_SET_SCANOUT_BLOB)
    c.r = rect.wire
    c.scanout_id = scanout
    c.resource_id = resource
    c.width = width
    c.height = height
    c.format = format.rawValue
    c.strides.0 = stride
    c.offsets.0 = offset
    return GPUCommand("SET_SCANOUT_BLOB", c)
  }

  /// RESOURCE_ASSIGN_UUID.
  package static func assignUUID(_ resource: UInt32) -> GPUCommand {
    var c = virtio_gpu_resource_assign_uuid()
    c.hdr = header(VIRTIO_GPU_CMD_RESOURCE_ASSIGN_UUID)
    c.resource_id = resource
    return GPUCommand(
      "RESOURCE_ASSIGN_UUID", c, responseSize: MemoryLayout<virtio_gpu_resp_resource_uuid>.size)
  }

  /// UPDATE_CURSOR; resource 0 hides the cursor.
  package static func updateCursor(
    _ scanout: UInt32, resource: UInt32, x: UInt32, y: UInt32, hotX: UInt32 = 0,
    hotY: UInt32 = 0
  ) -> GPUCommand {
    var c = virtio_gpu_update_cursor()
    c.hdr = header(VIRTIO_GPU_CMD_UPDATE_CURSOR)
    c.pos = virtio_gpu_cursor_pos(scanout_id: scanout, x: x, y: y, padding: 0)
    c.resource_id = resource
    c.hot_x = hotX
    c.hot_y = hotY
    return GPUCommand("UPDATE_CURSOR", c, queue: .cursor)
  }

  /// MOVE_CURSOR; resource 0 hides the cursor.
  package static func moveCursor(
    _ scanout: UInt32, resource: UInt32 = 1, x: UInt32, y: UInt32
  ) -> GPUCommand {
    var c = virtio_gpu_update_cursor()
    c.hdr = header(VIRTIO_GPU_CMD_MOVE_CURSOR)
    c.pos = virtio_gpu_cursor_pos(scanout_id: scanout, x: x, y: y, padding: 0)
    c.resource_id = resource
    return GPUCommand("MOVE_CURSOR", c, queue: .cursor)
  }
}
