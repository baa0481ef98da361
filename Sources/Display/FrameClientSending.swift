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
    // Making a copy may withdraw other copies, which calls this again.
    hasMoreToFlush = true
    guard !isFlushing else { return }
    isFlushing = true
    while hasMoreToFlush {
      hasMoreToFlush = false
      flushOnce()
    }
    isFlushing = false
  }

  private func flushOnce() {
    guard isGreeted, !isGone, !isBlocked else { return }
    guard sendRemovals() else { return }
    for index in outputs.indices where outputs[index].sizeIsNews {
      guard send(pinhole_output(index, outputs[index].size)) else { return }
      outputs[index].sizeIsNews = false
    }
    for index in outputs.indices where outputs[index].cursorIsNews {
      guard sendCursor(index) else { return }
    }
    waitsForCopy = false
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
    guard outputs[index].size != nil, outputs[index].pending != nil,
      outputs[index].inFlight.count < server.options.maxInFlight
    else { return true }
    guard let (buffer, crop) = choose(index) else { return true }
    // Again, because to make a copy may have withdrawn something.
    guard let frame = outputs[index].pending, let size = outputs[index].size else { return true }
    guard crop.width == size.width, crop.height == size.height,
      crop.fits(width: buffer.layout.width, height: buffer.layout.height)
    else {
      outputs[index].pending = nil
      return true
    }
    // The one place where memory leaves: whoever must not write gets nothing that can be written.
    if isCopyOnly, buffer.memory != .copy { return true }
    let key = FrameBufferKey(buffer)
    switch known[key]?.state {
    case .offered: break
    case .removalQueued, .removalSent, .closed: return true  // may come again when it is closed
    case nil:
      guard overdue == 0 else { return true }
      makeRoom()
      guard sendRemovals() else { return false }
      guard send(pinhole_buffer_add(buffer), fd: buffer.fd.raw) else { return false }
      known[key] = KnownBuffer()
      outputs[index].needsFull = true
    }
    var message = message(index, frame, key, crop)
    if buffer.memory == .copy {
      message.flags |= whyCopied(frame).rawValue << PINHOLE_FRAME_COPY_SHIFT
    }
    guard send(message, fd: frame.acquire?.raw ?? -1) else { return false }
    sent(index, frame, buffer, key, crop)
    return true
  }

  private func sent(
    _ index: Int, _ frame: PendingFrame, _ buffer: OfferedBuffer, _ key: FrameBufferKey,
    _ crop: Rect
  ) {
    let isCopy = buffer.memory == .copy
    let due = Clock.now &+ (isCopy ? server.copyDeadline : server.options.holdDeadline)
    // A copy is nothing that the guest would have to wait for.
    let ticket = server.ticket(buffer, hold: isCopy || late > 0 ? nil : frame.hold, due: due)
    outputs[index].inFlight.append(
      FrameInFlight(serial: outputs[index].serial, key: key, due: due, ticket: ticket))
    outputs[index].pending = nil
    outputs[index].hasSkipped = false
    outputs[index].needsFull = false
    outputs[index].lastCrop = crop
    outputs[index].damage.clear()
    server.counters.framesSent &+= 1
    if isCopy { server.counters.copiesSent &+= 1 }
    server.armLate(due)
  }

  /// The memory that this consumer gets for a frame, and the part of it to show; nil as long as
  /// there is none.
  private func choose(_ index: Int) -> (OfferedBuffer, Rect)? {
    guard let frame = outputs[index].pending else { return nil }
    if let buffer = frame.buffer, mayHave(buffer), frame.acquire == nil || takesFences {
      return (buffer, frame.crop)
    }
    // Pixels that are not drawn yet cannot be copied.
    guard frame.acquire == nil else { return nil }
    if let copies = frame.copies {
      if let copy = copies.copy(aligned: alignment) {
        let layout = copy.layout
        return (copy, Rect(x: 0, y: 0, width: layout.width, height: layout.height))
      }
      waitsForCopy = true
      return nil
    }
    guard let buffer = frame.buffer, alignment.suits(buffer) else { return nil }
    return (buffer, frame.crop)
  }

  private func mayHave(_ buffer: OfferedBuffer) -> Bool {
    (buffer.memory == .copy || !isCopyOnly && late == 0) && alignment.suits(buffer)
  }

  private func message(
    _ index: Int, _ frame: PendingFrame, _ key: FrameBufferKey, _ crop: Rect
  ) -> pinhole_frame {
    let whole = Rect(x: 0, y: 0, width: crop.width, height: crop.height)
    let isFull =
      outputs[index].needsFull || outputs[index].lastCrop != crop || outputs[index].damage.isEmpty
    outputs[index].serial &+= 1
    var message = pinhole_frame.empty()
    message.output = UInt32(truncatingIfNeeded: index)
    if isFull { message.flags |= PINHOLE_FRAME_FULL }
    if outputs[index].hasSkipped { message.flags |= PINHOLE_FRAME_SKIPPED }
    message.serial = outputs[index].serial
    message.buffer = key.id
    message.generation = key.generation
    message.crop = pinhole_rect(crop)
    message.timestamp_ns = frame.timestamp
    if frame.acquire != nil { message.acquire_kind = PINHOLE_FENCE_SYNC_FILE.rawValue }
    if isFull {
      message.num_damage = 1
      message.damage.0 = pinhole_rect(whole)
    } else {
      outputs[index].damage.write(to: &message, within: whole)
    }
    return message
  }

  /// What keeps this consumer from the guest's pages.
  private func whyCopied(_ frame: PendingFrame) -> pinhole_copy_reason {
    if isUntrusted { return PINHOLE_COPY_SOCKET }
    if isCopyOnly { return PINHOLE_COPY_ASKED }
    guard let buffer = frame.buffer, buffer.memory == .guestPages else {
      return frame.whyCopied?.code ?? PINHOLE_COPY_UNSAID
    }
    return late > 0 ? PINHOLE_COPY_LATE : PINHOLE_COPY_ALIGNMENT
  }

  /// A guest with very many pictures: takes one back that is not looked at.
  private func makeRoom() {
    guard known.count >= Self.maxBuffers else { return }
    let busy = known.first { key, buffer in
      buffer.state == .offered
        && !outputs.contains { output in
          output.pending?.shows(key) == true || output.inFlight.contains { $0.key == key }
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
