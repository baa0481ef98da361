import PinholeProtocol

/// What a consumer says.
package enum ConsumerMessage {
  /// The first message of all.
  case hello(ConsumerHello)
  /// A frame is not read any more.
  case frameDone(FrameDone)
  /// A removed generation is not mapped or imported any more.
  case bufferClosed(BufferClosed)
  /// An output gets a timeline.
  case timelineAdd(TimelineAdd)
  /// An output has no timeline any more.
  case timelineRemove(TimelineRemove)
  /// An optional message that is not known.
  case ignored

  /// Decodes one packet.
  ///
  /// - Parameters:
  ///   - packet: the packet.
  ///   - descriptors: how many came with it.
  ///   - features: those that hold, nil as long as no CONSUMER_HELLO came.
  package init(
    _ packet: UnsafeRawBufferPointer, descriptors: Int, features: UInt64?
  ) throws(MalformedMessage) {
    let header = try WireHeader(packet)
    let context = WireContext(descriptors: descriptors, features: features ?? 0)
    switch pinhole_message(rawValue: header.type) {
    case PINHOLE_FRAME_DONE:
      try header.require(features != nil, "CONSUMER_HELLO comes first")
      self = .frameDone(try FrameDone(WireMessage(packet, header), context))
    case PINHOLE_BUFFER_CLOSED:
      try header.require(features != nil, "CONSUMER_HELLO comes first")
      self = .bufferClosed(try BufferClosed(WireMessage(packet, header), context))
    case PINHOLE_CONSUMER_HELLO:
      try header.require(features == nil, "it came before")
      self = .hello(try ConsumerHello(WireMessage(packet, header), context))
    case PINHOLE_TIMELINE_ADD:
      try header.require(features != nil, "CONSUMER_HELLO comes first")
      try header.requireFeature(PINHOLE_FEATURE_TIMELINE, of: context)
      self = .timelineAdd(try TimelineAdd(WireMessage(packet, header), context))
    case PINHOLE_TIMELINE_REMOVE:
      try header.require(features != nil, "CONSUMER_HELLO comes first")
      try header.requireFeature(PINHOLE_FEATURE_TIMELINE, of: context)
      self = .timelineRemove(try TimelineRemove(WireMessage(packet, header), context))
    default:
      try header.requireOptional("is not a consumer's message")
      self = .ignored
    }
  }
}

/// CONSUMER_HELLO.
package struct ConsumerHello: FrameProtocolMessage, Equatable {
  /// The lowest version spoken, at least 1.
  package var minVersion: UInt32 = PINHOLE_VERSION
  /// The highest version spoken, at least `minVersion`.
  package var maxVersion: UInt32 = PINHOLE_VERSION
  /// Demands read-only copies.
  package var isCopyOnly = false
  /// Promises that nothing of its reads a frame that is done.
  package var isExplicit = false
  /// Wanted `PINHOLE_FEATURE_*`.
  package var features: UInt64 = 0
  /// Bytes, 0 or a power of two up to 4096.
  package var strideAlignment: UInt32 = 0
  /// Rows, 0 or a power of two up to 4096.
  package var heightAlignment: UInt32 = 0
  /// For people.
  package var name = ""

  /// Asks for nothing.
  package init(name: String = "") { self.name = name }

  package init(
    _ message: WireMessage<pinhole_consumer_hello>, _ context: WireContext
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
    try message.requireDescriptors(context.descriptors, 0)
    try message.require(
      body.min_version <= PINHOLE_VERSION, \.min_version,
      "this producer speaks version \(PINHOLE_VERSION) only", code: PINHOLE_ERROR_VERSION)
    isCopyOnly = body.flags & PINHOLE_CONSUMER_COPY_ONLY != 0
    try message.require(
      !isCopyOnly || body.features & PINHOLE_FEATURE_COPY_ONLY != 0, \.flags,
      "the flag COPY_ONLY needs the feature COPY_ONLY", code: PINHOLE_ERROR_UNSUPPORTED)
    isExplicit = body.flags & PINHOLE_CONSUMER_EXPLICIT != 0
    minVersion = body.min_version
    maxVersion = body.max_version
    features = body.features
    strideAlignment = body.stride_align
    heightAlignment = body.height_align
    self.name = name
  }

  package var wire: pinhole_consumer_hello {
    var hello = pinhole_consumer_hello.empty()
    hello.magic = PINHOLE_MAGIC
    hello.min_version = minVersion
    hello.max_version = maxVersion
    if isCopyOnly { hello.flags |= PINHOLE_CONSUMER_COPY_ONLY }
    if isExplicit { hello.flags |= PINHOLE_CONSUMER_EXPLICIT }
    hello.features = features
    hello.stride_align = strideAlignment
    hello.height_align = heightAlignment
    WireText.write(name, to: &hello.name)
    return hello
  }

  private static func isAlignment(_ number: UInt32) -> Bool {
    number <= 4096 && number & (number &- 1) == 0
  }
}

/// FRAME_DONE.
package struct FrameDone: FrameProtocolMessage, Equatable {
  /// When a frame is not read any more.
  package enum Release: Equatable {
    /// It is so now.
    case now
    /// With the descriptor that came.
    case syncFile
    /// With a point of the output's timeline, at least 1.
    case point(UInt64)
  }

  /// Which output, below `PINHOLE_MAX_OUTPUTS`.
  package var output: UInt32
  /// Which frame of it.
  package var serial: UInt64
  /// When.
  package var release: Release

  /// Answers a frame.
  package init(output: UInt32, serial: UInt64, release: Release = .now) {
    self.output = output
    self.serial = serial
    self.release = release
  }

  package init(
    _ message: WireMessage<pinhole_frame_done>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    let feature: UInt64?
    switch pinhole_fence(rawValue: body.release_kind) {
    case PINHOLE_FENCE_NONE: (release, feature) = (.now, 0)
    case PINHOLE_FENCE_SYNC_FILE: (release, feature) = (.syncFile, PINHOLE_FEATURE_SYNC_FILE)
    case PINHOLE_FENCE_TIMELINE:
      (release, feature) = (.point(body.release_point), PINHOLE_FEATURE_TIMELINE)
    default: (release, feature) = (.now, nil)
    }
    try message.require(
      feature.map { context.features & $0 == $0 } ?? false, \.release_kind,
      "fence kind \(body.release_kind) was not agreed on")
    if case .point(let point) = release {
      try message.require(point > 0, \.release_point, "points count from 1")
    } else {
      try message.require(body.release_point == 0, \.release_point, "a point without a timeline")
    }
    try message.requireDescriptors(context.descriptors, release == .syncFile ? 1 : 0)
    output = body.output
    serial = body.serial
  }

  package var wire: pinhole_frame_done {
    var done = pinhole_frame_done.empty()
    done.output = output
    done.serial = serial
    switch release {
    case .now: done.release_kind = PINHOLE_FENCE_NONE.rawValue
    case .syncFile: done.release_kind = PINHOLE_FENCE_SYNC_FILE.rawValue
    case .point(let point):
      done.release_kind = PINHOLE_FENCE_TIMELINE.rawValue
      done.release_point = point
    }
    return done
  }
}

/// BUFFER_CLOSED.
package struct BufferClosed: FrameProtocolMessage, Equatable {
  /// Which generation.
  package var name: BufferName

  /// Answers a removal.
  package init(_ name: BufferName) { self.name = name }

  package init(
    _ message: WireMessage<pinhole_buffer_closed>, _ context: WireContext
  ) throws(MalformedMessage) {
    try message.requireDescriptors(context.descriptors, 0)
    name = BufferName(number: message.body.buffer, generation: message.body.generation)
  }

  package var wire: pinhole_buffer_closed {
    var closed = pinhole_buffer_closed.empty()
    closed.buffer = name.number
    closed.generation = name.generation
    return closed
  }
}

/// TIMELINE_ADD.
package struct TimelineAdd: FrameProtocolMessage, Equatable {
  /// Which output, below `PINHOLE_MAX_OUTPUTS`.
  package var output: UInt32
  /// Which of the two descriptors is the drm_syncobj, 0 or 1.
  package var syncobj: Int
  /// Which one is the DRM node, the other.
  package var node: Int

  /// Brings a timeline.
  package init(output: UInt32, syncobj: Int = 0, node: Int = 1) {
    self.output = output
    self.syncobj = syncobj
    self.node = node
  }

  package init(
    _ message: WireMessage<pinhole_timeline_add>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    try message.require(body.reserved == 0, \.reserved, "reserved is \(body.reserved)")
    try message.require(
      body.syncobj_index < 2, \.syncobj_index, "descriptor \(body.syncobj_index) of two")
    try message.require(
      body.node_index < 2 && body.node_index != body.syncobj_index, \.node_index,
      "descriptor \(body.node_index) of two, beside \(body.syncobj_index)")
    try message.requireDescriptors(context.descriptors, 2)
    output = body.output
    syncobj = Int(body.syncobj_index)
    node = Int(body.node_index)
  }

  package var wire: pinhole_timeline_add {
    var add = pinhole_timeline_add.empty()
    add.output = output
    add.syncobj_index = UInt32(truncatingIfNeeded: syncobj)
    add.node_index = UInt32(truncatingIfNeeded: node)
    return add
  }
}

/// TIMELINE_REMOVE.
package struct TimelineRemove: FrameProtocolMessage, Equatable {
  /// Which output, below `PINHOLE_MAX_OUTPUTS`.
  package var output: UInt32

  /// Takes a timeline back.
  package init(output: UInt32) { self.output = output }

  package init(
    _ message: WireMessage<pinhole_timeline_remove>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    try message.require(body.reserved == 0, \.reserved, "reserved is \(body.reserved)")
    try message.requireDescriptors(context.descriptors, 0)
    output = body.output
  }

  package var wire: pinhole_timeline_remove {
    var remove = pinhole_timeline_remove.empty()
    remove.output = output
    return remove
  }
}
