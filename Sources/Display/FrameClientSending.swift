import Buffers
import FrameWire
import Glibc
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

// What a consumer has to be told, sent as far as its socket has room.
extension FrameClient {
  /// Sends what is news: removals first, so that an old generation goes before a new one comes.
  func flush() {
    guard isGreeted, !isGone, !isBlocked else { return }
    guard sendRemovals() else { return }
    for index in outputs.indices where outputs[index].sizeIsNews {
      guard send(pinhole_output(index, outputs[index].size)) else { return }
      outputs[index].sizeIsNews = false
    }
    for index in outputs.indices where outputs[index].cursorIsNews {
      guard sendCursor(index) else { return }
    }
    for index in outputs.indices where outputs[index].pending != nil {
      guard sendFrame(index) else { return }
    }
  }

  private func sendRemovals() -> Bool {
    var sent = 0
    defer { removals.removeFirst(min(sent, removals.count)) }
    for key in removals {
      guard send(pinhole_buffer_remove(key, known[key]?.reason ?? .unused)) else { return false }
      known[key]?.state = .removalSent
      sent += 1
    }
    return true
  }

  /// Sends the newest frame of an output if the consumer may have it; false if it must stop.
  private func sendFrame(_ index: Int) -> Bool {
    guard let frame = outputs[index].pending, let size = outputs[index].size,
      outputs[index].inFlight.count < server.options.maxInFlight
    else { return true }
    guard frame.crop.width == size.width, frame.crop.height == size.height,
      frame.crop.fits(width: frame.buffer.layout.width, height: frame.buffer.layout.height)
    else {
      outputs[index].pending = nil
      return true
    }
    switch known[frame.key]?.state {
    case .offered: break
    case .removalQueued, .removalSent: return true  // may come again after BUFFER_CLOSED
    case nil:
      guard overdue == 0 else { return true }
      makeRoom()
      guard send(pinhole_buffer_add(frame.buffer), fd: frame.buffer.fd.raw) else { return false }
      known[frame.key] = KnownBuffer()
      outputs[index].needsFull = true
    }
    guard send(message(index, frame)) else { return false }
    let now = Clock.now
    outputs[index].inFlight.append(
      FrameInFlight(
        serial: outputs[index].serial, key: frame.key, sent: now,
        share: FrameShare(frame.buffer, hold: late > 0 ? nil : frame.hold)))
    outputs[index].pending = nil
    outputs[index].hasSkipped = false
    outputs[index].needsFull = false
    outputs[index].lastCrop = frame.crop
    outputs[index].damage = Rect(x: 0, y: 0, width: 0, height: 0)
    server.sentFrame()
    return true
  }

  private func message(_ index: Int, _ frame: PendingFrame) -> pinhole_frame {
    let whole = Rect(x: 0, y: 0, width: frame.crop.width, height: frame.crop.height)
    let isFull = outputs[index].needsFull || outputs[index].lastCrop != frame.crop
    let damage = isFull ? whole : outputs[index].damage.intersection(whole) ?? whole
    outputs[index].serial &+= 1
    var message = pinhole_frame.empty()
    message.output = UInt32(truncatingIfNeeded: index)
    if isFull { message.flags |= PINHOLE_FRAME_FULL }
    if outputs[index].hasSkipped { message.flags |= PINHOLE_FRAME_SKIPPED }
    message.serial = outputs[index].serial
    message.buffer = frame.key.id
    message.generation = frame.key.generation
    message.crop = pinhole_rect(frame.crop)
    message.timestamp_ns = frame.timestamp
    message.num_damage = 1
    message.damage.0 = pinhole_rect(damage)
    return message
  }

  /// A guest with very many pictures: takes one back that is not looked at.
  private func makeRoom() {
    guard known.count >= Self.maxBuffers else { return }
    let busy = known.first { key, buffer in
      buffer.state == .offered
        && !outputs.contains { output in
          output.pending?.key == key || output.inFlight.contains { $0.key == key }
        }
    }
    guard let key = busy?.key else { return }
    queueRemoval(key, .unused)
    _ = sendRemovals()
  }

  private func sendCursor(_ index: Int) -> Bool {
    guard let state = outputs[index].cursor else { return true }
    var image = state.image
    if image?.serial == outputs[index].imageSent { image = nil }
    var file: SharedFD?
    if let new = image {
      file = server.cursorFile(new)
      if file == nil { image = nil }
    }
    guard send(pinhole_cursor(state, image: image), fd: file?.raw ?? -1) else { return false }
    if let image { outputs[index].imageSent = image.serial }
    outputs[index].cursorIsNews = false
    return true
  }

  /// Sends one message; false if it did not go out: the socket is full, or the consumer is gone.
  func send(_ message: some FrameMessage, fd: CInt = -1) -> Bool {
    guard !isGone else { return false }
    do throws(Errno) {
      try Self.send(message, fd: fd, to: socket.raw)
      return true
    } catch {
      switch error.code {
      case EAGAIN, ENOBUFS, ENOMEM: server.waitForRoom(self)
      case EPIPE, ECONNRESET: server.end(self, nil)
      default:
        server.log.warning("\(label): cannot send: \(error)")
        server.end(self, nil)
      }
      return false
    }
  }

  /// Sends one message to a socket.
  static func send(
    _ message: some FrameMessage, fd: CInt = -1, to socket: CInt
  ) throws(Errno) {
    _ = try withUnsafeBytes(of: message) { bytes throws(Errno) in
      try UnixSocket.send(socket, bytes, fds: fd < 0 ? [] : [fd], dontWait: true)
    }
  }
}
