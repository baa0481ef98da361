import FrameWire
import Glibc
import Linux
import PinholeProtocol

/// A message of the producer with every number checked that needs no memory of earlier ones.
enum ProducerMessage {
  case hello(Producer)
  case output(OutputState)
  case bufferAdd(ReceivedBuffer)
  case frame(ReceivedFrame)
  case bufferRemove(BufferName, RemovalReason)
  case cursor(ReceivedCursor)
  case error(FramesError.Refusal)
  case ignored

  /// Decodes one packet.
  ///
  /// - Parameters:
  ///   - packet: the packet.
  ///   - fds: its descriptors; those that the message keeps are taken out.
  init(_ packet: UnsafeRawBufferPointer, fds: inout [CInt]) throws(MalformedMessage) {
    let header = try WireHeader(packet)
    switch pinhole_message(rawValue: header.type) {
    case PINHOLE_PRODUCER_HELLO:
      self = .hello(try Self.hello(WireMessage(packet, header), fds.count))
    case PINHOLE_OUTPUT: self = .output(try Self.output(WireMessage(packet, header), fds.count))
    case PINHOLE_BUFFER_ADD:
      self = .bufferAdd(try Self.bufferAdd(WireMessage(packet, header), &fds))
    case PINHOLE_FRAME: self = .frame(try Self.frame(WireMessage(packet, header), &fds))
    case PINHOLE_BUFFER_REMOVE:
      let message = try WireMessage(packet, header, as: pinhole_buffer_remove.self)
      try message.requireDescriptors(fds.count, 0)
      let body = message.body
      self = .bufferRemove(
        BufferName(number: body.buffer, generation: body.generation),
        RemovalReason(rawValue: body.reason) ?? .destroyed)
    case PINHOLE_CURSOR: self = .cursor(try Self.cursor(WireMessage(packet, header), fds))
    case PINHOLE_ERROR: self = .error(try Self.error(WireMessage(packet, header), fds.count))
    default:
      guard header.isOptional else {
        throw MalformedMessage(type: header.type, field: 0, text: "the type is not known")
      }
      self = .ignored
    }
  }

  private static func hello(
    _ message: WireMessage<pinhole_producer_hello>, _ fds: Int
  ) throws(MalformedMessage) -> Producer {
    let body = message.body
    try message.requireDescriptors(fds, 0)
    try message.require(body.magic == PINHOLE_MAGIC, \.magic, "the magic is wrong")
    try message.require(
      body.version == PINHOLE_VERSION, \.version, "version \(body.version) was not offered")
    try message.require(body.max_in_flight >= 1, \.max_in_flight, "no frame may be in flight")
    try message.require(
      (1...PINHOLE_MAX_OUTPUTS).contains(body.max_outputs), \.max_outputs,
      "\(body.max_outputs) outputs")
    guard let name = WireText.read(body.name) else {
      throw message.fault(\.name, "the name is not UTF-8 with a NUL")
    }
    return Producer(
      version: body.version, features: body.features, maxInFlight: body.max_in_flight,
      holdDeadline: body.hold_deadline_us, closeDeadline: body.close_deadline_us,
      maxOutputs: body.max_outputs, name: name)
  }

  private static func output(
    _ message: WireMessage<pinhole_output>, _ fds: Int
  ) throws(MalformedMessage) -> OutputState {
    let body = message.body
    try message.requireDescriptors(fds, 0)
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    try message.require(
      body.flags & ~PINHOLE_OUTPUT_ENABLED == 0, \.flags, "unknown flags \(body.flags)")
    let enabled = body.flags & PINHOLE_OUTPUT_ENABLED != 0
    try message.require((body.width > 0) == enabled, \.width, "\(body.width) pixels across")
    try message.require((body.height > 0) == enabled, \.height, "\(body.height) pixels down")
    return OutputState(
      output: body.output, isEnabled: enabled, width: body.width, height: body.height,
      refresh: body.refresh_mhz)
  }

  private static func bufferAdd(
    _ message: WireMessage<pinhole_buffer_add>, _ fds: inout [CInt]
  ) throws(MalformedMessage) -> ReceivedBuffer {
    let body = message.body
    try message.require(body.generation > 0, \.generation, "generations count from 1")
    try message.require(body.width > 0, \.width, "no pixels across")
    try message.require(body.height > 0, \.height, "no pixels down")
    let known = PINHOLE_BUFFER_DMABUF | PINHOLE_BUFFER_COPY | PINHOLE_BUFFER_Y_INVERT
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    let isDMABuf = body.flags & PINHOLE_BUFFER_DMABUF != 0
    let isCopy = body.flags & PINHOLE_BUFFER_COPY != 0
    try message.require(isDMABuf != isCopy, \.flags, "not exactly one of DMABUF and COPY")
    try message.require(body.modifier == 0, \.modifier, "modifier \(body.modifier)")
    try message.require(body.num_planes == 1, \.num_planes, "\(body.num_planes) planes")
    try message.require(body.num_fds == 1, \.num_fds, "\(body.num_fds) descriptors")
    let plane = body.planes.0
    try message.require(plane.fd_index == 0, \.planes.0.fd_index, "descriptor \(plane.fd_index)")
    try message.require(
      UInt64(plane.stride) >= UInt64(body.width) * 4, \.planes.0.stride,
      "\(plane.stride) bytes are not enough for \(body.width) pixels")
    let (end, overflow) = (UInt64(plane.stride) * UInt64(body.height))
      .addingReportingOverflow(plane.offset)
    try message.require(
      !overflow && end <= body.size, \.planes.0.offset, "the last row ends outside")
    try message.require(Int(exactly: body.size) != nil, \.size, "\(body.size) bytes")
    try message.requireDescriptors(fds.count, 1)
    guard let number = fds.first else { throw message.fault(nil, "no descriptor came") }
    try checkLength(message, number, isCopy: isCopy)
    fds.removeAll()
    return ReceivedBuffer(body, fd: OwnedFD(adopting: number))
  }

  /// Memory that is too short, or can become so, would kill whoever reads it.
  private static func checkLength(
    _ message: WireMessage<pinhole_buffer_add>, _ fd: CInt, isCopy: Bool
  ) throws(MalformedMessage) {
    let end = lseek(fd, 0, SEEK_END)
    try message.require(
      end >= 0 && UInt64(end) >= message.body.size, \.size,
      "the descriptor has \(end) bytes, not \(message.body.size)")
    if isCopy {
      try message.require(
        MemFD.seals(of: fd)?.contains(.shrink) == true, \.flags, "the copy may still shrink")
    }
  }

  private static func error(
    _ message: WireMessage<pinhole_error>, _ fds: Int
  ) throws(MalformedMessage) -> FramesError.Refusal {
    let body = message.body
    try message.requireDescriptors(fds, 0)
    guard let text = WireText.read(body.text) else {
      throw message.fault(\.text, "the text is not UTF-8 with a NUL")
    }
    return FramesError.Refusal(
      code: body.code, messageType: body.message_type,
      field: body.field_offset == PINHOLE_NO_FIELD ? nil : body.field_offset, text: text)
  }
}
