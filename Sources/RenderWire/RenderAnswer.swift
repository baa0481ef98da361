/// A set of what a renderer can do, as VIRTIO_GPU_CMD_GET_CAPSET hands it to the guest.
package struct RenderCapset: Equatable, Sendable {
  /// `VIRTIO_GPU_CAPSET_*`.
  package var id: UInt32
  /// The largest version.
  package var version: UInt32
  /// The set in that version.
  package var data: [UInt8]

  package init(id: UInt32, version: UInt32, data: [UInt8]) {
    self.id = id
    self.version = version
    self.data = data
  }
}

/// What a renderer says of itself once it is ready.
package struct RenderGreeting: Equatable, Sendable {
  package var version: UInt32
  /// The library has the fixes of its version 1.1.0.
  package var isRecent: Bool
  package var capsets: [RenderCapset]

  package init(version: UInt32 = RenderWire.version, isRecent: Bool, capsets: [RenderCapset]) {
    self.version = version
    self.isRecent = isRecent
    self.capsets = capsets
  }
}

/// How a picture lies in the dma-buf that a renderer made of it: one plane.
package struct RenderTwin: Equatable, Sendable {
  package var stride, offset: UInt32
  /// `DRM_FORMAT_MOD_*`.
  package var modifier: UInt64

  package init(stride: UInt32, offset: UInt32, modifier: UInt64) {
    self.stride = stride
    self.offset = offset
    self.modifier = modifier
  }
}

/// What a renderer says to the daemon.
package enum RenderAnswer: Equatable, Sendable {
  /// The first message: it can work.
  case ready(RenderGreeting)
  /// The first message: it cannot, and why; then it ends.
  case unable([UInt8])
  /// A request is done; 0, or an error number as in errno(3).
  case done(error: UInt32)
  /// A picture has a twin, whose dma-buf travels along: the only answer with a descriptor.
  case exported(RenderTwin)

  private static let readyCode: UInt32 = 0x100
  private static let unableCode: UInt32 = 0x101
  private static let doneCode: UInt32 = 0x102
  private static let exportedCode: UInt32 = 0x103
  private static let longestReason = 512

  /// How many descriptors travel with it.
  package var descriptors: Int {
    if case .exported = self { return 1 }
    return 0
  }

  /// The whole packet.
  package func packet(id: UInt32) -> [UInt8] {
    var out = RenderWriter()
    let code: UInt32
    switch self {
    case .ready(let greeting):
      code = Self.readyCode
      out.put(
        all: greeting.version, greeting.isRecent ? 1 : 0, UInt32(clamping: greeting.capsets.count))
      for capset in greeting.capsets {
        out.put(all: capset.id, capset.version)
        out.put(counted: capset.data)
      }
    case .unable(let reason):
      code = Self.unableCode
      out.put(counted: Array(reason.prefix(Self.longestReason)))
    case .done(let error):
      code = Self.doneCode
      out.put(error)
    case .exported(let twin):
      code = Self.exportedCode
      out.put(all: twin.stride, twin.offset)
      out.put(twin.modifier)
    }
    return RenderHeader(operation: code, id: id, length: UInt32(clamping: out.bytes.count))
      .packet(out.bytes)
  }

  /// Decodes a packet; nil where it is not exactly such a message.
  package static func decode(
    _ packet: UnsafeRawBufferPointer
  ) -> (id: UInt32, answer: RenderAnswer)? {
    guard let header = RenderHeader(packet), header.flags == 0 else { return nil }
    var reader = RenderReader(UnsafeRawBufferPointer(rebasing: packet[RenderHeader.size...]))
    let answer: RenderAnswer
    switch header.operation {
    case readyCode:
      let version = reader.u32()
      let isRecent = reader.u32() != 0
      let count = reader.u32()
      guard count <= RenderWire.mostCapsets else { return nil }
      var capsets: [RenderCapset] = []
      for _ in 0..<count {
        capsets.append(
          RenderCapset(
            id: reader.u32(), version: reader.u32(),
            data: reader.counted(atMost: RenderWire.largestCapset)))
      }
      answer = .ready(RenderGreeting(version: version, isRecent: isRecent, capsets: capsets))
    case unableCode: answer = .unable(reader.counted(atMost: longestReason))
    case doneCode: answer = .done(error: reader.u32())
    case exportedCode:
      answer = .exported(
        RenderTwin(stride: reader.u32(), offset: reader.u32(), modifier: reader.u64()))
    default: return nil
    }
    return reader.isWhole ? (header.id, answer) : nil
  }
}
