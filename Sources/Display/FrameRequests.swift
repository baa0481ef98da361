import Buffers
import FrameWire
import PinholeProtocol

/// A message of a frame consumer with every number checked that can be checked by itself.
enum FrameRequest {
  case hello(FrameHello)
  case frameDone(output: Int, serial: UInt64, FrameRelease)
  case bufferClosed(FrameBufferKey)
  case timelineAdd(FrameTimeline)
  case timelineRemove(output: Int)
  case ignored

  /// Decodes one packet that came with `fds` descriptors.
  init(_ packet: UnsafeRawBufferPointer, fds: Int) throws(MalformedMessage) {
    let header = try WireHeader(packet)
    switch pinhole_message(rawValue: header.type) {
    case PINHOLE_FRAME_DONE: self = try Self.frameDone(WireMessage(packet, header), fds)
    case PINHOLE_BUFFER_CLOSED:
      let message = try WireMessage(packet, header, as: pinhole_buffer_closed.self)
      try message.requireDescriptors(fds, 0)
      self = .bufferClosed(
        FrameBufferKey(id: message.body.buffer, generation: message.body.generation))
    case PINHOLE_CONSUMER_HELLO: self = .hello(try FrameHello(WireMessage(packet, header), fds))
    case PINHOLE_TIMELINE_ADD:
      self = .timelineAdd(try FrameTimeline(WireMessage(packet, header), fds))
    case PINHOLE_TIMELINE_REMOVE:
      self = .timelineRemove(
        output: try FrameTimeline.removed(WireMessage(packet, header), fds))
    default:
      guard header.isOptional else {
        throw MalformedMessage(
          type: header.type, field: 0,
          text: "\(WireName.message(header.type)) is not a consumer's message")
      }
      self = .ignored
    }
  }

  private static func frameDone(
    _ message: WireMessage<pinhole_frame_done>, _ fds: Int
  ) throws(MalformedMessage) -> FrameRequest {
    let body = message.body
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    let release: FrameRelease
    switch pinhole_fence(rawValue: body.release_kind) {
    case PINHOLE_FENCE_NONE: release = .now
    case PINHOLE_FENCE_SYNC_FILE: release = .syncFile
    case PINHOLE_FENCE_TIMELINE: release = .point(body.release_point)
    default:
      throw message.fault(
        \.release_kind, "fence kind \(body.release_kind) was not agreed on")
    }
    try message.require(
      body.release_point == 0 || release == .point(body.release_point), \.release_point,
      "a point without a timeline")
    try message.requireDescriptors(fds, release == .syncFile ? 1 : 0)
    return .frameDone(output: Int(body.output), serial: body.serial, release)
  }
}

/// When a frame is not read any more.
enum FrameRelease: Equatable {
  case now
  /// With the descriptor that came.
  case syncFile
  /// With a point of the output's timeline.
  case point(UInt64)
}

/// A timeline for an output's release points.
struct FrameTimeline {
  let output: Int
  /// Which of two descriptors is which; both below 2, and not the same.
  let syncobj: Int
  let node: Int

  init(
    _ message: WireMessage<pinhole_timeline_add>, _ fds: Int
  ) throws(MalformedMessage) {
    let body = message.body
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    try message.require(body.reserved == 0, \.reserved, "reserved is \(body.reserved)")
    try message.require(
      body.syncobj_index < 2, \.syncobj_index, "descriptor \(body.syncobj_index) of two")
    try message.require(
      body.node_index < 2 && body.node_index != body.syncobj_index, \.node_index,
      "descriptor \(body.node_index) of two, beside \(body.syncobj_index)")
    try message.requireDescriptors(fds, 2)
    output = Int(body.output)
    syncobj = Int(body.syncobj_index)
    node = Int(body.node_index)
  }

  /// The output whose timeline goes.
  static func removed(
    _ message: WireMessage<pinhole_timeline_remove>, _ fds: Int
  ) throws(MalformedMessage) -> Int {
    let body = message.body
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    try message.require(body.reserved == 0, \.reserved, "reserved is \(body.reserved)")
    try message.requireDescriptors(fds, 0)
    return Int(body.output)
  }
}

/// What a consumer asks for.
struct FrameHello {
  let name: String
  /// Wanted `PINHOLE_FEATURE_*`.
  let features: UInt64
  let isCopyOnly: Bool
  /// Nothing of its readers is left behind a FRAME_DONE.
  let isExplicit: Bool
  let alignment: CopyAlignment

  init(
    _ message: WireMessage<pinhole_consumer_hello>, _ fds: Int
  ) throws(MalformedMessage) {
    let body = message.body
    try message.require(
      body.magic == PINHOLE_MAGIC, \.magic, "the magic is 0x\(String(body.magic, radix: 16))")
    try message.require(body.min_version >= 1, \.min_version, "versions count from 1")
    try message.require(
      body.max_version >= body.min_version, \.max_version,
      "\(body.max_version) is below min_version \(body.min_version)")
    let known = PINHOLE_CONSUMER_COPY_ONLY | PINHOLE_CONSUMER_EXPLICIT
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    try message.require(
      Self.isAlignment(body.stride_align), \.stride_align,
      "\(body.stride_align) is not 0 or a power of two up to 4096")
    try message.require(
      Self.isAlignment(body.height_align), \.height_align,
      "\(body.height_align) is not 0 or a power of two up to 4096")
    guard let name = WireText.read(body.name) else {
      throw message.fault(\.name, "the name is not UTF-8 with a NUL")
    }
    try message.requireDescriptors(fds, 0)
    try message.require(
      body.min_version <= PINHOLE_VERSION, \.min_version,
      "this producer speaks version \(PINHOLE_VERSION) only", code: PINHOLE_ERROR_VERSION)
    isCopyOnly = body.flags & PINHOLE_CONSUMER_COPY_ONLY != 0
    isExplicit = body.flags & PINHOLE_CONSUMER_EXPLICIT != 0
    try message.require(
      !isCopyOnly || body.features & PINHOLE_FEATURE_COPY_ONLY != 0, \.flags,
      "the flag COPY_ONLY needs the feature COPY_ONLY", code: PINHOLE_ERROR_UNSUPPORTED)
    features = body.features
    let isAligned = features & PINHOLE_FEATURE_ALIGNMENT != 0
    alignment = CopyAlignment(
      stride: isAligned ? body.stride_align : 0, height: isAligned ? body.height_align : 0)
    self.name = name
  }

  private static func isAlignment(_ number: UInt32) -> Bool {
    number <= 4096 && number & (number &- 1) == 0
  }
}

/// Names a generation of a buffer.
struct FrameBufferKey: Hashable, CustomStringConvertible {
  let id: UInt32
  let generation: UInt32

  init(id: UInt32, generation: UInt32) {
    self.id = id
    self.generation = generation
  }

  init(_ buffer: OfferedBuffer) { self.init(id: buffer.id, generation: buffer.generation) }

  var description: String { "\(id).\(generation)" }
}
