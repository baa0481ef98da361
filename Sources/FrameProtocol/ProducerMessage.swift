import PinholeProtocol
import Pixels

/// What a producer says.
package enum ProducerMessage {
  /// The answer to CONSUMER_HELLO.
  case hello(Producer)
  /// An output shows a picture of a size, or nothing.
  case output(OutputState)
  /// There is memory that frames will refer to.
  case bufferAdd(BufferAdd)
  /// There is something new to see.
  case frame(FrameMessage)
  /// A generation is taken back.
  case bufferRemove(BufferRemove)
  /// A cursor moved, changed or was hidden.
  case cursor(CursorMessage)
  /// The producer ends the connection for a reason.
  case error(Refusal)
  /// An optional message that is not known.
  case ignored

  /// Decodes one packet.
  ///
  /// - Parameters:
  ///   - packet: the packet.
  ///   - descriptors: how many came with it.
  ///   - features: those that hold; those that were wanted as long as no PRODUCER_HELLO came.
  package init(
    _ packet: UnsafeRawBufferPointer, descriptors: Int, features: UInt64
  ) throws(MalformedMessage) {
    let header = try WireHeader(packet)
    let context = WireContext(descriptors: descriptors, features: features)
    switch pinhole_message(rawValue: header.type) {
    case PINHOLE_PRODUCER_HELLO: self = .hello(try Producer(WireMessage(packet, header), context))
    case PINHOLE_OUTPUT: self = .output(try OutputState(WireMessage(packet, header), context))
    case PINHOLE_BUFFER_ADD:
      self = .bufferAdd(try BufferAdd(WireMessage(packet, header), context))
    case PINHOLE_FRAME: self = .frame(try FrameMessage(WireMessage(packet, header), context))
    case PINHOLE_BUFFER_REMOVE:
      self = .bufferRemove(try BufferRemove(WireMessage(packet, header), context))
    case PINHOLE_CURSOR: self = .cursor(try CursorMessage(WireMessage(packet, header), context))
    case PINHOLE_ERROR: self = .error(try Refusal(WireMessage(packet, header), context))
    default:
      try header.requireOptional("is not a producer's message")
      self = .ignored
    }
  }
}

/// The producer, as it introduced itself (PRODUCER_HELLO).
public struct Producer: Sendable, Equatable {
  /// The protocol version spoken.
  public var version: UInt32 = PINHOLE_VERSION
  /// `PINHOLE_FEATURE_*` bits that hold on this connection.
  public var features: UInt64
  /// Frames of one output without an answer at most.
  public var maxInFlight: UInt32
  /// How long the guest waits for a frame's answer, in microseconds.
  public var holdDeadline: UInt32
  /// How long the guest waits for a removed buffer, in microseconds.
  public var closeDeadline: UInt32
  /// Outputs are numbered below this.
  public var maxOutputs: UInt32 = PINHOLE_MAX_OUTPUTS
  /// For people.
  public var name: String

  /// Describes a producer of this protocol's version.
  public init(
    features: UInt64, maxInFlight: UInt32, holdDeadline: UInt32, closeDeadline: UInt32,
    name: String
  ) {
    self.features = features
    self.maxInFlight = maxInFlight
    self.holdDeadline = holdDeadline
    self.closeDeadline = closeDeadline
    self.name = name
  }
}

extension Producer: FrameProtocolMessage {
  package init(
    _ message: WireMessage<pinhole_producer_hello>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.require(body.magic == PINHOLE_MAGIC, \.magic, "the magic is wrong")
    try message.require(
      body.version == PINHOLE_VERSION, \.version, "version \(body.version) was not offered")
    let unasked = body.features & ~context.features
    try message.require(
      unasked == 0, \.features, "features 0x\(String(unasked, radix: 16)) were not asked for")
    try message.require(body.max_in_flight >= 1, \.max_in_flight, "no frame may be in flight")
    try message.require(
      (1...PINHOLE_MAX_OUTPUTS).contains(body.max_outputs), \.max_outputs,
      "\(body.max_outputs) outputs")
    guard let name = WireText.read(body.name) else {
      throw message.fault(\.name, "the name is not UTF-8 with a NUL")
    }
    try message.requireDescriptors(context.descriptors, 0)
    self.init(
      features: body.features, maxInFlight: body.max_in_flight,
      holdDeadline: body.hold_deadline_us, closeDeadline: body.close_deadline_us, name: name)
    version = body.version
    maxOutputs = body.max_outputs
  }

  package var wire: pinhole_producer_hello {
    var hello = pinhole_producer_hello.empty()
    hello.magic = PINHOLE_MAGIC
    hello.version = version
    hello.features = features
    hello.max_in_flight = maxInFlight
    hello.hold_deadline_us = holdDeadline
    hello.close_deadline_us = closeDeadline
    hello.max_outputs = maxOutputs
    WireText.write(name, to: &hello.name)
    return hello
  }
}

/// What an output shows (OUTPUT).
public struct OutputState: Sendable, Equatable {
  /// Which output, from 0.
  public var output: UInt32
  /// Whether it shows anything.
  public var isEnabled: Bool
  /// Pixels across; 0 when it shows nothing.
  public var width: UInt32
  /// Pixels down; 0 when it shows nothing.
  public var height: UInt32
  /// Thousandths of a hertz, 0 when not known.
  public var refresh: UInt32

  /// Describes an output that shows nothing unless it has a size in pixels.
  public init(
    output: UInt32, size: (width: UInt32, height: UInt32)? = nil, refresh: UInt32 = 0
  ) {
    self.output = output
    isEnabled = size != nil
    width = size?.width ?? 0
    height = size?.height ?? 0
    self.refresh = refresh
  }
}

extension OutputState: FrameProtocolMessage {
  package init(
    _ message: WireMessage<pinhole_output>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    try message.require(
      body.flags & ~PINHOLE_OUTPUT_ENABLED == 0, \.flags, "unknown flags \(body.flags)")
    let enabled = body.flags & PINHOLE_OUTPUT_ENABLED != 0
    try message.require(
      enabled ? (1...PINHOLE_MAX_SIZE).contains(body.width) : body.width == 0, \.width,
      "\(body.width) pixels across")
    try message.require(
      enabled ? (1...PINHOLE_MAX_SIZE).contains(body.height) : body.height == 0, \.height,
      "\(body.height) pixels down")
    try message.requireDescriptors(context.descriptors, 0)
    self.init(
      output: body.output, size: enabled ? (body.width, body.height) : nil,
      refresh: body.refresh_mhz)
  }

  package var wire: pinhole_output {
    var message = pinhole_output.empty()
    message.output = output
    if isEnabled { message.flags = PINHOLE_OUTPUT_ENABLED }
    message.width = width
    message.height = height
    message.refresh_mhz = refresh
    return message
  }
}

/// BUFFER_ADD.
package struct BufferAdd: FrameProtocolMessage, Equatable {
  /// Which generation.
  package var name: BufferName
  /// Where the pixels are.
  package var layout: ImageLayout
  /// What the descriptors are.
  package var memory: FrameMemory
  /// The first row in memory is the lowest.
  package var isYInverted: Bool
  /// Bytes behind each descriptor.
  package var size: UInt64

  /// Describes memory.
  package init(
    _ name: BufferName, layout: ImageLayout, memory: FrameMemory, size: UInt64,
    isYInverted: Bool = false
  ) {
    self.name = name
    self.layout = layout
    self.memory = memory
    self.size = size
    self.isYInverted = isYInverted
  }

  /// How many descriptors go with the message: one more than the planes name.
  package var descriptors: Int {
    Int((layout.planes.map(\.descriptor).max() ?? 0) &+ 1)
  }

  package init(
    _ message: WireMessage<pinhole_buffer_add>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.require(body.generation > 0, \.generation, "generations count from 1")
    let sides = 1...PINHOLE_MAX_SIZE
    try message.require(sides.contains(body.width), \.width, "\(body.width) pixels across")
    try message.require(sides.contains(body.height), \.height, "\(body.height) pixels down")
    let known = PINHOLE_BUFFER_DMABUF | PINHOLE_BUFFER_COPY | PINHOLE_BUFFER_Y_INVERT
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    let isDMABuf = body.flags & PINHOLE_BUFFER_DMABUF != 0
    let isCopy = body.flags & PINHOLE_BUFFER_COPY != 0
    try message.require(isDMABuf != isCopy, \.flags, "not exactly one of DMABUF and COPY")
    // An image of a GPU, which the CPU is not to read, may have any planes.
    let isImage = isDMABuf && context.features & PINHOLE_FEATURE_MODIFIERS != 0
    try message.require(
      isImage || FourCC.packed.contains(FourCC(rawValue: body.fourcc)), \.fourcc,
      "format \(FourCC(rawValue: body.fourcc)) was not agreed on")
    try message.require(
      isImage || body.modifier == linearModifier, \.modifier,
      "modifier 0x\(String(body.modifier, radix: 16)) was not agreed on")
    try message.require(
      Int(exactly: body.size) != nil && body.size <= PINHOLE_MAX_BYTES, \.size,
      "\(body.size) bytes")
    try message.require(
      (1...(isImage ? UInt32(PINHOLE_MAX_PLANES) : 1)).contains(body.num_planes), \.num_planes,
      "\(body.num_planes) planes")
    try message.require(
      (1...body.num_planes).contains(body.num_fds), \.num_fds, "\(body.num_fds) descriptors")
    let planes = Self.planes(of: body)
    for (index, plane) in planes.enumerated() {
      try Self.check(plane, index, message, isImage: isImage)
    }
    try message.require(
      Set(planes.map(\.descriptor)).count == Int(body.num_fds), \.num_fds,
      "\(body.num_fds) descriptors, not all of which a plane lies in")
    try message.requireDescriptors(context.descriptors, Int(body.num_fds))
    self.init(
      BufferName(number: body.buffer, generation: body.generation),
      layout: ImageLayout(
        width: body.width, height: body.height, fourcc: FourCC(rawValue: body.fourcc),
        modifier: body.modifier, planes: planes),
      memory: isDMABuf ? .dmaBuf : .copy, size: body.size,
      isYInverted: body.flags & PINHOLE_BUFFER_Y_INVERT != 0)
  }

  private static func planes(of body: pinhole_buffer_add) -> [PixelPlane] {
    withUnsafeBytes(of: body.planes) { bytes in
      (0..<min(Int(body.num_planes), Int(PINHOLE_MAX_PLANES))).map { index in
        let plane = bytes.loadUnaligned(
          fromByteOffset: index * MemoryLayout<pinhole_plane>.stride, as: pinhole_plane.self)
        return PixelPlane(
          descriptor: plane.fd_index, stride: plane.stride, offset: plane.offset)
      }
    }
  }

  private static func check(
    _ plane: PixelPlane, _ index: Int, _ message: WireMessage<pinhole_buffer_add>, isImage: Bool
  ) throws(MalformedMessage) {
    let body = message.body
    let place = index * MemoryLayout<pinhole_plane>.stride
    try message.require(
      plane.descriptor < body.num_fds, \.planes.0.fd_index, plus: place,
      "plane \(index) lies in descriptor \(plane.descriptor)")
    let (row, rows) = (UInt64(body.width) * 4, UInt64(plane.stride) * UInt64(body.height))
    let isPacked =
      body.modifier == linearModifier && FourCC.packed.contains(FourCC(rawValue: body.fourcc))
    // What a row of another format or modifier takes only its driver knows.
    if isPacked || !isImage {
      try message.require(
        UInt64(plane.stride) >= row, \.planes.0.stride, plus: place,
        "\(plane.stride) bytes are not enough for \(body.width) pixels")
    }
    try message.require(
      plane.stride <= PINHOLE_MAX_STRIDE, \.planes.0.stride, plus: place,
      "\(plane.stride) bytes a row")
    let (end, overflow) = rows.addingReportingOverflow(plane.offset)
    try message.require(
      isPacked || !isImage ? !overflow && end <= body.size : plane.offset < body.size,
      \.planes.0.offset, plus: place, "plane \(index) ends outside")
  }

  package var wire: pinhole_buffer_add {
    var add = pinhole_buffer_add.empty()
    add.buffer = name.number
    add.generation = name.generation
    add.width = layout.width
    add.height = layout.height
    add.fourcc = layout.fourcc.rawValue
    add.flags = memory == .dmaBuf ? PINHOLE_BUFFER_DMABUF : PINHOLE_BUFFER_COPY
    if isYInverted { add.flags |= PINHOLE_BUFFER_Y_INVERT }
    add.modifier = layout.modifier
    add.size = size
    add.num_planes = UInt32(clamping: layout.planes.count)
    add.num_fds = UInt32(clamping: descriptors)
    withUnsafeMutableBytes(of: &add.planes) { bytes in
      for (index, plane) in layout.planes.prefix(Int(PINHOLE_MAX_PLANES)).enumerated() {
        bytes.storeBytes(
          of: pinhole_plane(
            fd_index: plane.descriptor, stride: plane.stride, offset: plane.offset),
          toByteOffset: index * MemoryLayout<pinhole_plane>.stride, as: pinhole_plane.self)
      }
    }
    return add
  }
}

/// BUFFER_REMOVE.
package struct BufferRemove: FrameProtocolMessage, Equatable {
  /// Which generation.
  package var name: BufferName
  /// Why; unknown numbers are ``RemovalReason/destroyed``.
  package var reason: RemovalReason

  /// Takes a generation back.
  package init(_ name: BufferName, _ reason: RemovalReason) {
    self.name = name
    self.reason = reason
  }

  package init(
    _ message: WireMessage<pinhole_buffer_remove>, _ context: WireContext
  ) throws(MalformedMessage) {
    try message.requireDescriptors(context.descriptors, 0)
    name = BufferName(number: message.body.buffer, generation: message.body.generation)
    reason = RemovalReason(rawValue: message.body.reason) ?? .destroyed
  }

  package var wire: pinhole_buffer_remove {
    var remove = pinhole_buffer_remove.empty()
    remove.buffer = name.number
    remove.generation = name.generation
    remove.reason = reason.rawValue
    return remove
  }
}

/// Why a producer ended the connection (ERROR).
public struct Refusal: Sendable, Equatable {
  /// `PINHOLE_ERROR_*`.
  public var code: UInt32
  /// The type of the message at fault, 0 if none is.
  public var messageType: UInt32
  /// Bytes from the start of that message to the field at fault; nil where there is none.
  public var field: UInt32?
  /// For people.
  public var text: String

  /// Gives a reason.
  public init(code: UInt32, messageType: UInt32 = 0, field: UInt32? = nil, text: String) {
    self.code = code
    self.messageType = messageType
    self.field = field
    self.text = text
  }
}

extension Refusal: FrameProtocolMessage {
  /// Says what is wrong with a message.
  package init(_ fault: MalformedMessage) {
    self.init(
      code: fault.code.rawValue, messageType: fault.type,
      field: fault.field == PINHOLE_NO_FIELD ? nil : fault.field, text: fault.text)
  }

  package init(
    _ message: WireMessage<pinhole_error>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    guard let text = WireText.read(body.text) else {
      throw message.fault(\.text, "the text is not UTF-8 with a NUL")
    }
    try message.requireDescriptors(context.descriptors, 0)
    self.init(
      code: body.code, messageType: body.message_type,
      field: body.field_offset == PINHOLE_NO_FIELD ? nil : body.field_offset, text: text)
  }

  package var wire: pinhole_error {
    var error = pinhole_error.empty()
    error.code = code
    error.message_type = messageType
    error.field_offset = field ?? PINHOLE_NO_FIELD
    WireText.write(text, to: &error.text)
    return error
  }
}
