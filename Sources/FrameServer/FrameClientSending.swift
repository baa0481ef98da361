import Buffers
import Fences
import FrameProtocol
import Glibc
import Linux
import Logging
import PinholeProtocol
import Pixels
import Scene

// What a consumer has to be told, sent as far as its socket has room.
extension FrameClient {
  /// Sends what is news: removals first, so that an old generation goes before a new one comes.
  ///
  /// - Parameter changed: the outputs whose frames may go out.
  func flush(_ changed: OutputSet) {
    guard isGreeted, !isGone, !isBlocked, sendRemovals() else { return }
    for index in outputs.indices where outputs[index].sizeIsNews {
      let size = server.scene.size(index)
      guard send(OutputState(output: UInt32(truncatingIfNeeded: index), size: size).wire) else {
        return
      }
      outputs[index].sizeIsNews = false
      if size == nil { replaced(on: index, by: nil) }
    }
    for index in outputs.indices
    where outputs[index].isPending && changed.contains(OutputSet(index)) {
      guard sendFrame(index) else { return }
    }
    for index in outputs.indices where outputs[index].cursorIsNews {
      guard sendCursor(index) else { return }
    }
    sendRemovals()
  }

  /// What this consumer can do, and may have.
  private var wishes: Wishes {
    var wishes = Wishes()
    wishes.alignment = alignment
    if isCopyOnly { wishes.onlyCopies = isUntrusted ? .untrusted : .wanted }
    wishes.isLate = late > 0 || recipient.keepsPages
    wishes.takesFences = takesFences
    wishes.takesImages = takesImages
    return wishes
  }

  @discardableResult
  func sendRemovals() -> Bool {
    guard isGreeted, !isGone, !isBlocked else { return false }
    var sent = 0
    defer { removals.removeFirst(min(sent, removals.count)) }
    for key in removals {
      let reason = RemovalReason(known[key]?.reason ?? .unused)
      guard send(BufferRemove(key, reason).wire) else { return false }
      known[key]?.state = .removalSent
      sent += 1
    }
    return true
  }

  /// Sends the newest frame of an output if the consumer may have it; false if it must stop.
  private func sendFrame(_ index: Int) -> Bool {
    guard outputs[index].inFlight.count < maxInFlight,
      server.scene.hasPicture(index)
    else { return true }
    guard let frame = server.scene.frame(index, wishes) else {
      waitsForCopy = true
      server.reclaimPooled()
      return true
    }
    var isSent = false
    defer { if !isSent { frame.lock?.release() } }
    let buffer = frame.buffer
    guard frame.crop.fits(width: buffer.layout.width, height: buffer.layout.height) else {
      outputs[index].isPending = false
      return true
    }
    // The one place where memory leaves: whoever must not write gets nothing that can be written.
    if isCopyOnly, buffer.isOriginal { return true }
    let key = FrameBufferKey(buffer)
    switch known[key]?.state {
    case .offered: known[key]?.goesWithNextFrame = false
    case .removalQueued, .removalSent, .closed: return true  // may come again when it is closed
    case nil:
      guard overdue == 0 else { return true }
      makeRoom()
      guard sendRemovals() else { return false }
      if isPooling, !buffer.isOriginal {
        for copy in server.scene.copies(of: index, wishes) where copy !== buffer {
          guard offer(copy) else { return false }
        }
      }
      guard offer(buffer) else { return false }
    }
    if known[key]?.wasShown != true { outputs[index].needsFull = true }
    var message = message(index, frame, key)
    if !buffer.isOriginal { message.copyReason = frame.whyCopied?.code }
    guard send(message.wire, frame.acquire) else { return false }
    isSent = true
    known[key]?.wasShown = true
    sent(index, frame, key)
    return true
  }

  /// Tells it of a buffer that it does not know; false if it must stop.
  private func offer(_ buffer: OfferedBuffer) -> Bool {
    let key = FrameBufferKey(buffer)
    guard known[key] == nil else { return true }
    guard send(BufferAdd(buffer).wire, buffer.fd, buffer.others) else { return false }
    buffer.given(to: recipient)
    known[key] = KnownBuffer(recipients: buffer.recipients)
    return true
  }

  private func sent(_ index: Int, _ frame: Frame, _ key: FrameBufferKey) {
    let isCopy = !frame.buffer.isOriginal
    // Only behind guest pages a guest waits.
    let waits = frame.buffer.memory == .guestPages
    let due = Clock.now &+ (waits ? server.options.holdDeadline : server.copyDeadline)
    outputs[index].inFlight.append(
      FrameInFlight(
        serial: outputs[index].serial, key: key, buffer: frame.buffer, due: due, lock: frame.lock))
    outputs[index].isPending = false
    outputs[index].hasSkipped = false
    outputs[index].needsFull = false
    outputs[index].lastCrop = frame.crop
    outputs[index].damage.clear()
    replaced(on: index, by: key)
    server.counters.framesSent &+= 1
    counted.frames &+= 1
    if isCopy { server.counters.copiesSent &+= 1 }
    server.armLate(due)
  }

  private func message(_ index: Int, _ frame: Frame, _ key: FrameBufferKey) -> FrameMessage {
    let crop = frame.crop
    let isFull =
      outputs[index].needsFull || outputs[index].lastCrop != crop || outputs[index].damage.isEmpty
    outputs[index].serial &+= 1
    return FrameMessage(
      output: UInt32(truncatingIfNeeded: index), serial: outputs[index].serial, buffer: key,
      crop: crop, damage: isFull ? nil : outputs[index].damage.rects,
      hasSkipped: outputs[index].hasSkipped, hasFence: frame.acquire != nil,
      timestamp: frame.timestamp)
  }

  /// A guest with very many pictures: takes one back that is not looked at.
  private func makeRoom() {
    guard known.count >= Self.maxBuffers else { return }
    let busy = known.first { key, buffer in
      buffer.state == .offered
        && !outputs.contains { output in
          output.shown == key || output.inFlight.contains { $0.key == key }
        }
    }
    guard let key = busy?.key else { return }
    queueRemoval(key, .unused)
    _ = sendRemovals()
  }

  private func sendCursor(_ index: Int) -> Bool {
    guard let state = server.scene.cursor(index) else { return true }
    var image = state.image
    if image?.serial == outputs[index].imageSent { image = nil }
    var slot: FrameCursorFiles.Slot?
    if let new = image {
      if mayHaveImage, (try? UnixSocket.unread(socket.raw)) != 0 {
        server.tryAgain()
        return true
      }
      do throws(Errno) {
        slot = try server.cursors.slot(for: new)
        guard slot != nil else {
          server.tryAgain()
          return true
        }
      } catch {
        server.log.warning("cannot share a cursor image: \(error)")
        image = nil
      }
    }
    guard send(CursorMessage(state, image: image).wire, slot?.fd) else { return false }
    if let image {
      outputs[index].imageSent = image.serial
      mayHaveImage = true
    }
    outputs[index].cursorIsNews = false
    return true
  }

  /// Sends one message; false if it did not go out: the socket is full, or the consumer is gone.
  func send(
    _ message: some WireStruct, _ fd: SharedFD? = nil, _ others: [SharedFD] = []
  ) -> Bool {
    guard !isGone else { return false }
    do throws(Errno) {
      try Self.send(message, fd, others, to: socket.raw)
      return true
    } catch {
      switch error.code {
      case EAGAIN: server.waitForRoom(self)
      // Also too many descriptors in flight for this user: there will be room, but not for sure
      // when the socket has some.
      case ENOBUFS, ENOMEM, ETOOMANYREFS: server.tryAgain()
      case EPIPE, ECONNRESET: server.end(self, nil)
      default:
        server.log.warning("\(label): cannot send: \(error)")
        server.end(self, nil)
      }
      return false
    }
  }

  /// Sends one message and descriptors to a socket.
  static func send(
    _ message: some WireStruct, _ fd: SharedFD? = nil, _ others: [SharedFD] = [], to socket: CInt
  ) throws(Errno) {
    let fds = fd.map { [$0.raw] + others.map(\.raw) } ?? []
    _ = try withUnsafeBytes(of: message) { bytes throws(Errno) in
      try UnixSocket.send(socket, bytes, fds: fds, dontWait: true)
    }
  }
}
