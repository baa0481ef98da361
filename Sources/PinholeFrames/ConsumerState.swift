import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

// What the producer's messages mean after those before them.
extension FrameConsumer {
  /// Takes one packet; nil if it tells the user nothing.
  func receive() throws(FramesError) -> Event? {
    // What is not kept is closed as strangers' descriptors are: a close may wait for whoever made
    // the file (a socket that lingers, a file on FUSE).
    var fds: [CInt] = []
    defer { for fd in fds { Closers.close(fd, from: sender) } }
    let received: UnixSocket.Received
    do throws(Errno) {
      received = try UnixSocket.receive(
        socket.raw, into: scratch, fds: &fds, maxFDs: Int(PINHOLE_MAX_FDS), dontWait: true,
        from: sender)
    } catch {
      // A reset may stand before the producer's last words: read on.
      if error.code == EAGAIN || error.code == ECONNRESET { return nil }
      throw .system(error)
    }
    guard received.count > 0 else { throw .closed }
    let packet = UnsafeRawBufferPointer(rebasing: scratch[..<received.count])
    let message: ProducerMessage
    let event: Event?
    do throws(MalformedMessage) {
      if received.truncated {
        throw MalformedMessage(type: 0, text: "a packet or its descriptors do not fit")
      }
      message = try ProducerMessage(
        packet, descriptors: fds.count, features: producer?.features ?? hello.features)
      event = try accept(message, &fds)
    } catch {
      throw .malformed(
        message: WireName.message(error.type),
        field: error.field == PINHOLE_NO_FIELD ? nil : error.field, text: error.text)
    }
    if case .error(let refusal) = message { throw .refused(refusal) }
    if case .bufferRemoved(let name, _) = event, options.closesRemovedBuffers {
      try closed(name)
    }
    return event
  }

  /// - Parameter fds: the descriptors that came; those that are kept are taken out.
  private func accept(
    _ message: ProducerMessage, _ fds: inout [CInt]
  ) throws(MalformedMessage) -> Event? {
    guard let producer else {
      switch message {
      case .hello(let producer):
        try accept(producer)
        return .connected(producer)
      case .error, .ignored: return nil
      default:
        throw unexpected(PINHOLE_PRODUCER_HELLO, at: \pinhole_header.type, "it did not come first")
      }
    }
    switch message {
    case .hello:
      throw unexpected(PINHOLE_PRODUCER_HELLO, at: \pinhole_header.type, "a second one")
    case .output(let state):
      guard state.output < producer.maxOutputs else {
        throw unexpected(PINHOLE_OUTPUT, at: \pinhole_output.output, "output \(state.output)")
      }
      outputs[state.output] = state
      return .output(state)
    case .bufferAdd(let add):
      // Before anything is asked of a descriptor that should not be there.
      guard !options.copyOnly || add.memory == .copy else {
        throw unexpected(PINHOLE_BUFFER_ADD, at: \pinhole_buffer_add.flags, "it is no copy")
      }
      let buffer = try ReceivedBuffer(checking: add, &fds)
      try accept(buffer, producer)
      return .bufferAdded(buffer)
    case .frame(let message):
      let fence = fds.popLast().map { SharedFD(OwnedFD(adopting: $0, from: sender)) }
      let frame = ReceivedFrame(message, fence: fence)
      try accept(frame, producer)
      return .frame(frame)
    case .bufferRemove(let removal):
      guard let buffer = buffers.removeValue(forKey: removal.name) else {
        throw unexpected(
          PINHOLE_BUFFER_REMOVE, at: \pinhole_buffer_remove.buffer,
          "there is no buffer \(removal.name)")
      }
      removed[removal.name] = buffer
      return .bufferRemoved(removal.name, reason: removal.reason)
    case .cursor(let message):
      let cursor = try ReceivedCursor(message, fds.first)
      try accept(cursor, producer)
      return .cursor(cursor)
    case .error, .ignored: return nil
    }
  }

  private func accept(_ producer: Producer) throws(MalformedMessage) {
    guard !options.copyOnly || producer.features & PINHOLE_FEATURE_COPY_ONLY != 0 else {
      throw unexpected(
        PINHOLE_PRODUCER_HELLO, at: \pinhole_producer_hello.features,
        "copies were demanded, and the feature COPY_ONLY does not hold")
    }
    self.producer = producer
  }

  private func accept(
    _ buffer: ReceivedBuffer, _ producer: Producer
  ) throws(MalformedMessage) {
    let name = buffer.name
    func fault(
      _ field: PartialKeyPath<pinhole_buffer_add>, _ text: String
    ) -> MalformedMessage { unexpected(PINHOLE_BUFFER_ADD, at: field, text) }
    guard !buffers.keys.contains(where: { $0.number == name.number }), removed[name] == nil else {
      throw fault(\.buffer, "buffer \(name) is added while \(name.number) is not removed")
    }
    guard buffers.count + removed.count < 1024 else { throw fault(\.buffer, "too many buffers") }
    guard UInt64(buffer.width) * UInt64(buffer.height) <= options.mostPixels else {
      throw fault(
        \.width,
        "\(buffer.width)x\(buffer.height) are more than \(options.mostPixels) pixels, the most "
          + "that this consumer takes")
    }
    if producer.features & PINHOLE_FEATURE_ALIGNMENT != 0 { try checkAlignment(of: buffer) }
    buffers[name] = buffer
  }

  private func checkAlignment(of buffer: ReceivedBuffer) throws(MalformedMessage) {
    func fault(
      _ field: PartialKeyPath<pinhole_buffer_add>, _ text: String
    ) -> MalformedMessage { unexpected(PINHOLE_BUFFER_ADD, at: field, text) }
    let mask = UInt64(max(options.heightAlignment, 1)) - 1
    let rows = (UInt64(buffer.height) + mask) & ~mask
    for plane in buffer.layout.planes {
      guard plane.stride & (max(options.strideAlignment, 1) - 1) == 0 else {
        throw fault(\.planes.0.stride, "stride \(plane.stride) is not aligned as it was agreed on")
      }
      guard plane.offset + rows * UInt64(plane.stride) <= buffer.size else {
        throw fault(\.size, "\(buffer.size) bytes hold no \(rows) rows, as it was agreed on")
      }
    }
  }

  private func accept(_ frame: ReceivedFrame, _ producer: Producer) throws(MalformedMessage) {
    func fault(_ field: PartialKeyPath<pinhole_frame>, _ text: String) -> MalformedMessage {
      unexpected(PINHOLE_FRAME, at: field, text)
    }
    guard let output = outputs[frame.output], output.isEnabled else {
      throw fault(\.output, "output \(frame.output) is off")
    }
    let last = shown[frame.output]
    if let last, frame.serial <= last.serial {
      throw fault(\.serial, "serial \(frame.serial) after \(last.serial)")
    }
    guard let buffer = buffers[frame.buffer] else {
      throw fault(\.buffer, "there is no buffer \(frame.buffer)")
    }
    guard frame.crop.fits(width: buffer.width, height: buffer.height) else {
      throw fault(\.crop, "the crop \(frame.crop) is outside \(buffer.width)x\(buffer.height)")
    }
    guard frame.crop.width == output.width, frame.crop.height == output.height else {
      throw fault(
        \.crop,
        "the crop \(frame.crop) is not of the output's size \(output.width)x\(output.height)")
    }
    guard frame.isFull || last?.crop == frame.crop && buffer.wasShown else {
      throw fault(
        \.flags, "FULL is missing: it is the first frame of the output, the crop or the buffer")
    }
    guard unanswered[frame.output, default: [:]].count < producer.maxInFlight else {
      throw fault(\.serial, "more than \(producer.maxInFlight) frames are in flight")
    }
    buffer.wasShown = true
    shown[frame.output] = (frame.serial, frame.crop)
    unanswered[frame.output, default: [:]][frame.serial] = frame.buffer
  }

  private func accept(_ cursor: ReceivedCursor, _ producer: Producer) throws(MalformedMessage) {
    guard cursor.output < producer.maxOutputs else {
      throw unexpected(PINHOLE_CURSOR, at: \pinhole_cursor.output, "output \(cursor.output)")
    }
    if cursor.image != nil { cursors.insert(cursor.output) }
    guard !cursor.isVisible || cursors.contains(cursor.output) else {
      throw unexpected(
        PINHOLE_CURSOR, at: \pinhole_cursor.flags, "it is visible, and no image ever came")
    }
  }

  private func unexpected<Body>(
    _ type: pinhole_message, at field: PartialKeyPath<Body>, _ text: String
  ) -> MalformedMessage {
    MalformedMessage(code: PINHOLE_ERROR_UNEXPECTED, type: type.rawValue, at: field, text: text)
  }
}
