import CLinux

/// Requests for 3D (virtio 1.3 §5.7.6.8).
extension GPUCommand {
  private static func header3D(
    _ type: virtio_gpu_ctrl_type, context: UInt32 = 0
  ) -> virtio_gpu_ctrl_hdr {
    var header = virtio_gpu_ctrl_hdr()
    header.type = UInt32(type.rawValue)
    header.ctx_id = context
    return header
  }

  /// GET_CAPSET_INFO.
  package static func getCapsetInfo(_ index: UInt32) -> GPUCommand {
    var c = virtio_gpu_get_capset_info()
    c.hdr = header3D(VIRTIO_GPU_CMD_GET_CAPSET_INFO)
    c.capset_index = index
    return GPUCommand(
      "GET_CAPSET_INFO", c, responseSize: MemoryLayout<virtio_gpu_resp_capset_info>.size)
  }

  /// GET_CAPSET; `size` is what GET_CAPSET_INFO said.
  package static func getCapset(_ id: UInt32, version: UInt32, size: Int) -> GPUCommand {
    var c = virtio_gpu_get_capset()
    c.hdr = header3D(VIRTIO_GPU_CMD_GET_CAPSET)
    c.capset_id = id
    c.capset_version = version
    return GPUCommand(
      "GET_CAPSET", c, responseSize: MemoryLayout<virtio_gpu_ctrl_hdr>.size + size)
  }

  /// CTX_CREATE.
  package static func createContext(_ context: UInt32, name: String = "fake") -> GPUCommand {
    var c = virtio_gpu_ctx_create()
    c.hdr = header3D(VIRTIO_GPU_CMD_CTX_CREATE, context: context)
    let text = Array(name.utf8.prefix(64))
    c.nlen = UInt32(text.count)
    withUnsafeMutableBytes(of: &c.debug_name) { $0.copyBytes(from: text) }
    return GPUCommand("CTX_CREATE", c)
  }

  /// CTX_DESTROY.
  package static func destroyContext(_ context: UInt32) -> GPUCommand {
    var c = virtio_gpu_ctx_destroy()
    c.hdr = header3D(VIRTIO_GPU_CMD_CTX_DESTROY, context: context)
    return GPUCommand("CTX_DESTROY", c)
  }

  /// CTX_ATTACH_RESOURCE, or CTX_DETACH_RESOURCE.
  package static func context(
    _ context: UInt32, attach: Bool, resource: UInt32
  ) -> GPUCommand {
    var c = virtio_gpu_ctx_resource()
    c.hdr = header3D(
      attach ? VIRTIO_GPU_CMD_CTX_ATTACH_RESOURCE : VIRTIO_GPU_CMD_CTX_DETACH_RESOURCE,
      context: context)
    c.resource_id = resource
    return GPUCommand(attach ? "CTX_ATTACH_RESOURCE" : "CTX_DETACH_RESOURCE", c)
  }

  /// RESOURCE_CREATE_3D.
  package static func create3D(
    _ resource: UInt32, target: UInt32, format: UInt32, bind: UInt32, width: UInt32,
    height: UInt32, depth: UInt32 = 1, arraySize: UInt32 = 1, lastLevel: UInt32 = 0,
    samples: UInt32 = 0, flags: UInt32 = 0
  ) -> GPUCommand {
    var c = virtio_gpu_resource_create_3d()
    c.hdr = header3D(VIRTIO_GPU_CMD_RESOURCE_CREATE_3D)
    c.resource_id = resource
    c.target = target
    c.format = format
    c.bind = bind
    c.width = width
    c.height = height
    c.depth = depth
    c.array_size = arraySize
    c.last_level = lastLevel
    c.nr_samples = samples
    c.flags = flags
    return GPUCommand("RESOURCE_CREATE_3D", c)
  }

  /// A part of a resource, `struct virtio_gpu_box`.
  package struct Box: Sendable {
    package var x, y, z, width, height, depth: UInt32

    package init(
      x: UInt32 = 0, y: UInt32 = 0, z: UInt32 = 0, width: UInt32, height: UInt32 = 1,
      depth: UInt32 = 1
    ) {
      self.x = x
      self.y = y
      self.z = z
      self.width = width
      self.height = height
      self.depth = depth
    }
  }

  /// TRANSFER_TO_HOST_3D, or TRANSFER_FROM_HOST_3D; `offset` is in bytes of the backing.
  package static func transfer3D(
    _ resource: UInt32, toHost: Bool, _ box: Box, context: UInt32 = 0, level: UInt32 = 0,
    offset: UInt64 = 0, stride: UInt32 = 0, layerStride: UInt32 = 0
  ) -> GPUCommand {
    var c = virtio_gpu_transfer_host_3d()
    c.hdr = header3D(
      toHost ? VIRTIO_GPU_CMD_TRANSFER_TO_HOST_3D : VIRTIO_GPU_CMD_TRANSFER_FROM_HOST_3D,
      context: context)
    c.box = virtio_gpu_box(
      x: box.x, y: box.y, z: box.z, w: box.width, h: box.height, d: box.depth)
    c.offset = offset
    c.resource_id = resource
    c.level = level
    c.stride = stride
    c.layer_stride = layerStride
    return GPUCommand(toHost ? "TRANSFER_TO_HOST_3D" : "TRANSFER_FROM_HOST_3D", c)
  }

  /// SUBMIT_3D; `size` lies about the number of bytes if given.
  package static func submit(
    _ context: UInt32, _ commands: [UInt8], size: UInt32? = nil
  ) -> GPUCommand {
    var c = virtio_gpu_cmd_submit()
    c.hdr = header3D(VIRTIO_GPU_CMD_SUBMIT_3D, context: context)
    c.size = size ?? UInt32(commands.count)
    return GPUCommand(
      raw: withUnsafeBytes(of: c) { [UInt8]($0) } + commands, name: "SUBMIT_3D")
  }
}
