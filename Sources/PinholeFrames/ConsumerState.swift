import FrameWire
import Glibc
import Linux
import PinholeProtocol

// What the producer's messages mean after those before them.
extension FrameConsumer {
  /// Takes one packet; nil if it tells the user nothing.
  func receive() throws(FramesError) -> Event? {
    var fds: [CInt] = []
    let received: UnixSocket.Received
    do throws(Errno) {
      received = try UnixSocket.receive(
        socket.raw, into: scratch, fds: &fds, maxFDs: Int(PINHOLE_MAX_FDS), dontWait: true)
    } catch {
      // A reset may stand before the producer's last words: read on.
      if error.code == EAGAIN || error.code == ECONNRESET { return nil }
      throw .system(error)
    }
    defer { for fd in fds { _ = close(fd) } }
    guard received.count > 0 else { throw .closed }
    let packet = UnsafeRawBufferPointer(rebasing: scratch[..<received.count])
    let message: ProducerMessage
    let event: Event?
    do throws(MalformedMessage) {
      if received.truncated {
        throw MalformedMessage(type: 0, text: "a packet or its descriptors do not fit")
      }
      message = try ProducerMessage(packet, fds: &fds)
      event = try accept(message)
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

  private func accept(_ message: ProducerMessage) throws(MalformedMessage) -> Event? {
    switch message {
    case .hello(let hello):
      guard producer == nil else { throw unexpected(PINHOLE_PRODUCER_HELLO, "a second one") }
      producer = hello
      return .connected(hello)
    case .error, .ignored: return nil
    default:
      guard producer != nil else {
        throw unexpected(PINHOLE_PRODUCER_HELLO, "it did not come first")
      }
    }
    switch message {
    case .output(let state):
      outputs[state.output] = state
      return .output(state)
    case .bufferAdd(let buffer):
      try accept(buffer)
      return .bufferAdded(buffer)
    case .frame(let frame):
      try accept(frame)
      return .frame(frame)
    case .bufferRemove(let name, let reason):
      guard let buffer = buffers.removeValue(forKey: name) else {
        throw unexpected(PINHOLE_BUFFER_REMOVE, "there is no buffer \(name)", field: 8)
      }
      removed[name] = buffer
      return .bufferRemoved(name, reason: reason)
    case .cursor(let cursor): return .cursor(cursor)
    case .hello, .error, .ignored: return nil
    }
  }

  private func accept(_ buffer: ReceivedBuffer) throws(MalformedMessage) {
    let name = buffer.name
    guard !buffers.keys.contains(where: { $0.number == name.number }), removed[name] == nil else {
      throw unexpected(
        PINHOLE_BUFFER_ADD, "buffer \(name) is added while \(name.number) is not removed", field: 8)
    }
    guard buffers.count < 1024 else { throw unexpected(PINHOLE_BUFFER_ADD, "too many buffers") }
    buffers[name] = buffer
  }

  private func accept(_ frame: ReceivedFrame) throws(MalformedMessage) {
    let takesFences = (producer?.features ?? 0) & PINHOLE_FEATURE_SYNC_FILE != 0
    if frame.acquire != nil, !takesFences {
      throw unexpected(PINHOLE_FRAME, "fences were not agreed on", field: 48)
    }
    guard let buffer = buffers[frame.buffer] else {
      throw unexpected(PINHOLE_FRAME, "there is no buffer \(frame.buffer)", field: 24)
    }
    guard let output = outputs[frame.output], output.isEnabled else {
      throw unexpected(PINHOLE_FRAME, "output \(frame.output) is off", field: 8)
    }
    guard frame.crop.fits(width: buffer.width, height: buffer.height) else {
      throw unexpected(
        PINHOLE_FRAME, "the crop \(frame.crop) is outside \(buffer.width)x\(buffer.height)",
        field: 32)
    }
    guard frame.crop.width == output.width, frame.crop.height == output.height else {
      throw unexpected(
        PINHOLE_FRAME,
        "the crop \(frame.crop) is not of the output's size \(output.width)x\(output.height)",
        field: 32)
    }
    if let last = serials[frame.output], frame.serial <= last {
      throw unexpected(PINHOLE_FRAME, "serial \(frame.serial) after \(last)", field: 16)
    }
    serials[frame.output] = frame.serial
    unanswered[frame.output, default: [:]][frame.serial] = frame.buffer
  }

  private func unexpected(
    _ type: pinhole_message, _ text: String, field: UInt32 = PINHOLE_NO_FIELD
  ) -> MalformedMessage {
    MalformedMessage(
      code: PINHOLE_ERROR_UNEXPECTED, type: type.rawValue, field: field, text: text)
  }
}
