/// The numbers of requests.
package enum RenderOpcode: UInt32, CaseIterable, Sendable {
  case setUp = 1
  case addFile
  case dropFile
  case createContext
  case destroyContext
  case attach
  case detach
  case createResource
  case destroyResource
  case attachBacking
  case detachBacking
  case transferToHost
  case transferFromHost
  case submit
  case fence
  case readBack
  case exportPicture
  case dropExport
}

/// `struct virgl_renderer_resource_create_args` (virglrenderer.h), or the like of
/// VIRTIO_GPU_CMD_RESOURCE_CREATE_3D.
package struct RenderShape: Equatable, Sendable {
  package var target, format, bind, width, height, depth: UInt32
  package var arraySize, lastLevel, samples, flags: UInt32

  package init(
    target: UInt32, format: UInt32, bind: UInt32, width: UInt32, height: UInt32, depth: UInt32 = 1,
    arraySize: UInt32 = 1, lastLevel: UInt32 = 0, samples: UInt32 = 0, flags: UInt32 = 0
  ) {
    self.target = target
    self.format = format
    self.bind = bind
    self.width = width
    self.height = height
    self.depth = depth
    self.arraySize = arraySize
    self.lastLevel = lastLevel
    self.samples = samples
    self.flags = flags
  }
}

/// A piece of a file that the renderer maps, in bytes.
package struct RenderRun: Equatable, Sendable {
  package var file: UInt32
  package var offset: UInt64
  package var count: UInt64

  package init(file: UInt32, offset: UInt64, count: UInt64) {
    self.file = file
    self.offset = offset
    self.count = count
  }
}

/// `struct virgl_box`: texels, or bytes of a buffer.
package struct RenderBox: Equatable, Sendable {
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

/// VIRTIO_GPU_CMD_TRANSFER_TO_HOST_3D and its sibling; `offset` counts in the backing's bytes.
package struct RenderTransfer: Equatable, Sendable {
  package var context, resource, level, stride, layerStride: UInt32
  package var offset: UInt64
  package var box: RenderBox

  package init(
    context: UInt32, resource: UInt32, level: UInt32 = 0, stride: UInt32 = 0,
    layerStride: UInt32 = 0, offset: UInt64 = 0, box: RenderBox
  ) {
    self.context = context
    self.resource = resource
    self.level = level
    self.stride = stride
    self.layerStride = layerStride
    self.offset = offset
    self.box = box
  }
}

/// A picture of 4 bytes a pixel that begins where its file does.
package struct RenderPicture: Equatable, Sendable {
  package var width, height, stride: UInt32
  /// `DRM_FORMAT_*`.
  package var fourcc: UInt32

  package init(width: UInt32, height: UInt32, stride: UInt32, fourcc: UInt32) {
    self.width = width
    self.height = height
    self.stride = stride
    self.fourcc = fourcc
  }
}

/// What the daemon asks of a renderer.
package enum RenderRequest: Equatable, Sendable {
  /// The first one, with the ring's descriptor.
  case setUp(version: UInt32, ringSize: UInt64)
  /// A file to be mapped for reading and writing, whose descriptor travels along.
  case addFile(UInt32, size: UInt64)
  /// A file that no backing uses any more.
  case dropFile(UInt32)
  /// `capset`: which of the renderer's dialects, 0 for its first.
  case createContext(UInt32, capset: UInt32, name: [UInt8])
  case destroyContext(UInt32)
  case attach(context: UInt32, resource: UInt32)
  case detach(context: UInt32, resource: UInt32)
  case createResource(UInt32, RenderShape)
  case destroyResource(UInt32)
  case attachBacking(UInt32, [RenderRun])
  case detachBacking(UInt32)
  case transferToHost(RenderTransfer)
  case transferFromHost(RenderTransfer)
  /// Commands of the context's dialect, a multiple of 4 bytes.
  case submit(context: UInt32, [UInt8])
  /// Answered when everything before it is done.
  case fence
  /// Copies a box of a resource's first level into a file: rows `stride` bytes apart.
  case readBack(UInt32, RenderBox, RenderRun, stride: UInt32)
  /// Makes a twin, in the GPU's memory, of the picture in a file, instead of one that there is:
  /// what is read back into the file goes there too, until the file is dropped. Answered by
  /// ``RenderAnswer/exported(_:)``.
  case exportPicture(UInt32, RenderPicture)
  /// Ends a file's twin.
  case dropExport(UInt32)

  package var opcode: RenderOpcode {
    switch self {
    case .setUp: .setUp
    case .addFile: .addFile
    case .dropFile: .dropFile
    case .createContext: .createContext
    case .destroyContext: .destroyContext
    case .attach: .attach
    case .detach: .detach
    case .createResource: .createResource
    case .destroyResource: .destroyResource
    case .attachBacking: .attachBacking
    case .detachBacking: .detachBacking
    case .transferToHost: .transferToHost
    case .transferFromHost: .transferFromHost
    case .submit: .submit
    case .fence: .fence
    case .readBack: .readBack
    case .exportPicture: .exportPicture
    case .dropExport: .dropExport
    }
  }

  /// How many descriptors travel with it.
  package var descriptors: Int {
    switch self {
    case .setUp, .addFile: 1
    default: 0
    }
  }
}

// MARK: - Bytes

extension RenderRequest {
  /// The payload, without its header.
  package var payload: [UInt8] {
    var out = RenderWriter()
    switch self {
    case .setUp(let version, let size):
      out.put(version)
      out.put(size)
    case .addFile(let file, let size):
      out.put(file)
      out.put(size)
    case .dropFile(let id), .destroyContext(let id), .destroyResource(let id),
      .detachBacking(let id), .dropExport(let id):
      out.put(id)
    case .createContext(let context, let capset, let name):
      out.put(all: context, capset)
      out.put(counted: Array(name.prefix(RenderWire.longestName)))
    case .attach(let context, let resource), .detach(let context, let resource):
      out.put(all: context, resource)
    case .createResource(let id, let s):
      out.put(
        all: id, s.target, s.format, s.bind, s.width, s.height, s.depth, s.arraySize, s.lastLevel,
        s.samples, s.flags)
    case .attachBacking(let resource, let runs):
      out.put(resource)
      for run in runs { out.put(run) }
    case .transferToHost(let t), .transferFromHost(let t):
      out.put(all: t.context, t.resource, t.level, t.stride, t.layerStride)
      out.put(t.offset)
      out.put(t.box)
    case .submit(let context, let commands):
      out.put(context)
      out.put(raw: commands)
    case .fence: break
    case .readBack(let resource, let box, let run, let stride):
      out.put(resource)
      out.put(box)
      out.put(run)
      out.put(stride)
    case .exportPicture(let file, let p):
      out.put(all: file, p.width, p.height, p.stride, p.fourcc)
    }
    return out.bytes
  }

  /// Decodes a payload; nil where it is not exactly what the operation takes. A submission's
  /// commands are not copied out here: see ``SubmittedCommands``.
  package init?(_ opcode: RenderOpcode, _ payload: UnsafeRawBufferPointer) {
    var reader = RenderReader(payload)
    switch opcode {
    case .setUp: self = .setUp(version: reader.u32(), ringSize: reader.u64())
    case .addFile: self = .addFile(reader.u32(), size: reader.u64())
    case .dropFile: self = .dropFile(reader.u32())
    case .createContext:
      self = .createContext(
        reader.u32(), capset: reader.u32(), name: reader.counted(atMost: RenderWire.longestName))
    case .destroyContext: self = .destroyContext(reader.u32())
    case .attach: self = .attach(context: reader.u32(), resource: reader.u32())
    case .detach: self = .detach(context: reader.u32(), resource: reader.u32())
    case .createResource:
      self = .createResource(
        reader.u32(),
        RenderShape(
          target: reader.u32(), format: reader.u32(), bind: reader.u32(), width: reader.u32(),
          height: reader.u32(), depth: reader.u32(), arraySize: reader.u32(),
          lastLevel: reader.u32(), samples: reader.u32(), flags: reader.u32()))
    case .destroyResource: self = .destroyResource(reader.u32())
    case .attachBacking:
      let resource = reader.u32()
      var runs: [RenderRun] = []
      while reader.left >= RenderRun.size { runs.append(reader.run()) }
      self = .attachBacking(resource, runs)
    case .detachBacking: self = .detachBacking(reader.u32())
    case .transferToHost: self = .transferToHost(reader.transfer())
    case .transferFromHost: self = .transferFromHost(reader.transfer())
    case .submit:
      guard let commands = SubmittedCommands(payload) else { return nil }
      self = .submit(context: commands.context, Array(commands.bytes))
      return
    case .fence: self = .fence
    case .readBack:
      self = .readBack(reader.u32(), reader.box(), reader.run(), stride: reader.u32())
    case .exportPicture:
      self = .exportPicture(
        reader.u32(),
        RenderPicture(
          width: reader.u32(), height: reader.u32(), stride: reader.u32(), fourcc: reader.u32()))
    case .dropExport: self = .dropExport(reader.u32())
    }
    guard reader.isWhole else { return nil }
  }
}

/// A submission that still lies where it was received.
package struct SubmittedCommands {
  package let context: UInt32
  package let bytes: UnsafeRawBufferPointer

  /// Nil unless whole commands follow a context's number.
  package init?(_ payload: UnsafeRawBufferPointer) {
    guard payload.count >= 4, payload.count % 4 == 0 else { return nil }
    context = payload.loadUnaligned(as: UInt32.self)
    bytes = UnsafeRawBufferPointer(rebasing: payload[4...])
  }
}

extension RenderRun {
  /// Bytes on the wire.
  static let size = 20
}

extension RenderWriter {
  mutating func put(_ run: RenderRun) {
    put(run.file)
    put(run.offset)
    put(run.count)
  }

  mutating func put(_ box: RenderBox) {
    put(all: box.x, box.y, box.z, box.width, box.height, box.depth)
  }
}

extension RenderReader {
  mutating func run() -> RenderRun { RenderRun(file: u32(), offset: u64(), count: u64()) }

  mutating func box() -> RenderBox {
    RenderBox(x: u32(), y: u32(), z: u32(), width: u32(), height: u32(), depth: u32())
  }

  mutating func transfer() -> RenderTransfer {
    RenderTransfer(
      context: u32(), resource: u32(), level: u32(), stride: u32(), layerStride: u32(),
      offset: u64(), box: box())
  }
}
