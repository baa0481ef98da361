import Buffers
import Fences
import Linux
import Logging
import Pixels
import Scene

/// A dma-buf on an output of QEMU's.
struct QEMUPages {
  let buffer: OfferedBuffer
  /// The part from its first pixel on that is shown.
  let layout: PixelLayout
  /// The buffer must not be shown any longer.
  var isRevoked = false
  /// Keeps a renderer from drawing into it while it is on the output.
  var reading: QEMUReading?

  func shows(the other: QEMUPages) -> Bool {
    buffer === other.buffer && layout == other.layout && !isRevoked
  }
}

/// QEMU may read what a renderer drew whenever it likes, for as long as that is on an output.
final class QEMUReading {
  private let lock: Hold

  /// Nil where nobody waits, and for guest pages: these are the guest's to draw into.
  init?(_ frame: Commit) {
    guard frame.buffer?.memory == .rendered, let lock = frame.lock, lock.isPending else {
      return nil
    }
    self.lock = lock
    lock.retain()
  }

  deinit { lock.release() }
}

/// A DMABUF_UPDATE that QEMU has not answered.
struct QEMUInFlight {
  let buffer: OfferedBuffer
  let lock: Hold?
  /// The picture before it, which QEMU may read until it has taken the message that replaces it.
  let replaced: QEMUReading?
  let number: Int
  /// QEMU has taken so many messages about dma-bufs on outputs when it answers.
  let scanouts: UInt64
}

/// A dma-buf that QEMU may have: it counts as pinned until QEMU has taken the message that lets it
/// go, on whatever socket.
final class QEMUImport {
  let buffer: OfferedBuffer
  /// When whoever revoked it does not wait any longer; nil while nobody does.
  private(set) var deadline: UInt64?
  /// The message that took it off its last output, as ``QEMUDisplay/scanouts`` counts them.
  var left: UInt64?
  /// QEMU was asked whether it has taken that message.
  var isAsked = false
  /// Waits for QEMU's GPU, which reads on after QEMU has let go.
  var readers: FenceWatch?
  /// It must not be shown any more.
  private(set) var isRevoked = false
  private var lock: Hold?

  init(_ buffer: OfferedBuffer) { self.buffer = buffer }

  func revoke(deadline: UInt64, _ lock: Hold) {
    guard !isRevoked else { return }
    self.deadline = deadline
    isRevoked = true
    self.lock = lock
    lock.retain()
  }

  func finish() {
    let kept = lock
    lock = nil
    readers = nil
    deadline = nil
    kept?.release()
  }
}

// DMABUF_SCANOUT and DMABUF_UPDATE: QEMU imports the guest's own pages.
extension QEMUDisplay {
  /// What every OpenGL driver imports.
  private static let importable: Set<FourCC> = [.xrgb8888, .argb8888, .xbgr8888, .abgr8888]

  /// Nanoseconds until a DMABUF_UPDATE is given up: software rendering takes a second.
  var presentPatience: UInt64 { patience &* 5 }

  /// The dma-buf of a frame; nil if its pixels have to be sent.
  ///
  /// QEMU drops the position inside the dma-buf, so the picture has to begin at its first byte; it
  /// knows one plane, and no fence. While it keeps pages that were taken back it gets no others.
  func importable(_ frame: Commit) -> QEMUPages? {
    guard wantsBuffers, !recipient.keepsPages, let buffer = frame.buffer, buffer.isOriginal,
      let packed = buffer.layout.packed, packed.offset == 0, frame.bufferCrop.x == 0,
      frame.bufferCrop.y == 0, Self.importable.contains(packed.fourcc), frame.acquire == nil
    else { return nil }
    let layout = PixelLayout(
      width: frame.bufferCrop.width, height: frame.bufferCrop.height, stride: packed.stride,
      fourcc: packed.fourcc)
    return QEMUPages(buffer: buffer, layout: layout, reading: QEMUReading(frame))
  }

  /// Shows a dma-buf and what changed in it, or remembers that QEMU misses it.
  func show(_ pages: QEMUPages, on index: Int) {
    let isShown = outputs[index].pages?.shows(the: pages) ?? false
    if !isShown { outputs[index].missed = outputs[index].size?.whole }
    guard let link, link.features != nil, link.outbox.isIdle, link.hasRoomForQuestions,
      inFlight == nil
    else { return }
    let replaced = isShown ? nil : outputs[index].pages?.reading
    guard isShown || scanout(pages, on: index, link) else { return }
    let rect = outputs[index].missed.flatMap { outputs[index].size?.whole.intersection($0) }
    outputs[index].missed = nil
    guard self.link === link, let rect, let frame = scene.frame(index, Wishes()) else { return }
    link.encoder.clear()
    link.encoder.dmabufUpdate(output: UInt32(clamping: index), rect: rect)
    counted.dmabufUpdates += 1
    let number = counted.dmabufUpdates
    inFlight = QEMUInFlight(
      buffer: pages.buffer, lock: frame.lock, replaced: replaced, number: number,
      scanouts: scanouts)
    link.sendUpdate(patience: presentPatience) { [weak self, weak link] presented in
      guard let self else { return }
      landed(number, presented && self.link === link)
    }
    followLeaving()
  }

  /// Sends DMABUF_SCANOUT; false if there was no room for it.
  private func scanout(_ pages: QEMUPages, on index: Int, _ link: QEMULink) -> Bool {
    let output = UInt32(clamping: index)
    if let size = outputs[index].size, outputs[index].surface != size {
      // QEMU does not fit its surface to a dma-buf, and shows a new one with the next UPDATE.
      link.encoder.clear()
      link.encoder.scanout(output: output, width: size.width, height: size.height)
      link.encoder.update(output: output, rect: Rect(x: 0, y: 0, width: 1, height: 1))
      link.encoder.pixel()
      link.sendEncoded()
      outputs[index].tell(size)
      guard self.link === link, link.outbox.isIdle else { return false }
    }
    let hasModifier = link.features?.contains(.dmabuf2) ?? false
    link.encoder.clear()
    link.encoder.dmabufScanout(
      output: output, layout: pages.layout, modifier: hasModifier ? linearModifier : nil)
    pages.buffer.given(to: recipient)
    guard link.sendEncoded(with: pages.buffer.fd.raw), self.link === link else { return false }
    put(pages, on: index)
    counted.dmabufs += 1
    log.debug("output \(index): QEMU imports buffer \(pages.buffer.id).\(pages.buffer.generation)")
    return true
  }

  /// Notes that QEMU was told to show a dma-buf on an output, or none any more.
  private func put(_ pages: QEMUPages?, on index: Int) {
    scanouts &+= 1
    let old = outputs[index].pages?.buffer
    outputs[index].tell(pages: pages)
    if let new = pages?.buffer {
      if let entry = imports.first(where: { $0.buffer === new }) {
        entry.left = nil
      } else {
        imports.append(QEMUImport(new))
      }
    }
    if let old { noteLeft(old) }
    if !outputs.contains(where: \.mayHavePages) {
      // Nothing of an earlier socket's is on any output now.
      for entry in imports where entry.left == nil { noteLeft(entry.buffer) }
    }
  }

  private func noteLeft(_ buffer: OfferedBuffer) {
    guard !outputs.contains(where: { $0.pages?.buffer === buffer }) else { return }
    let entry = imports.first { $0.buffer === buffer }
    entry?.left = scanouts
    entry?.isAsked = false
  }

  /// Has QEMU let the dma-buf of an output go, if it may have one: encodes the message.
  func takePagesOff(_ index: Int, _ link: QEMULink) {
    guard outputs[index].pages != nil || outputs[index].mayHavePages else { return }
    link.encoder.dmabufScanoutOff(output: UInt32(clamping: index))
    put(nil, on: index)
  }

  /// QEMU has answered a DMABUF_UPDATE, or will not.
  private func landed(_ number: Int, _ presented: Bool) {
    guard let done = inFlight, done.number == number else { return }
    inFlight = nil
    finish(done)
    if presented { confirmed(upTo: done.scanouts) }
    if !presented, link != nil { giveUpPages() }
    owesTurn = true
    followLeaving()
  }

  /// Lets a frame go once QEMU's GPU, too, has read it.
  private func finish(_ done: QEMUInFlight) {
    guard let lock = done.lock else { return }
    let fd = done.buffer.fd
    guard link != nil, !DmaBufFences.isIdle(fd.raw) else { return lock.release() }
    do throws(Errno) {
      reading[done.number] = try FenceWatch(try readers(fd), on: loop) { [weak self] in
        lock.release()
        self?.reading[done.number] = nil
      }
    } catch { lock.release() }
  }

  /// Negotiation has ended.
  func agreed(on link: QEMULink) {
    guard self.link === link, way == .dmabuf else { return }
    if link.features == nil { return giveUpPages() }
    owesTurn = true
  }

  /// QEMU gets pixels until it brings another socket.
  private func giveUpPages() {
    guard !hasGivenUpPages else { return }
    hasGivenUpPages = true
    log.warning("QEMU's display does not answer for the guest's pages; it gets copies of them")
    for index in outputs.indices where outputs[index].pages != nil {
      outputs[index].pages?.isRevoked = true
    }
    owesTurn = true
  }

  // MARK: Letting go

  /// A buffer must not be shown any more.
  func letGo(of buffer: OfferedBuffer, _ lock: Hold) {
    for index in outputs.indices where outputs[index].pages?.buffer === buffer {
      outputs[index].pages?.isRevoked = true
    }
    guard let leaveTimer else { return }
    let known = imports.first { $0.buffer === buffer }
    let entry = known ?? QEMUImport(buffer)
    // QEMU may have let it go a moment ago, and its GPU not.
    guard known != nil || buffer.busy != nil else { return }
    entry.revoke(deadline: Clock.now &+ leaveDeadline, lock)
    if !leaveTimer.isArmed { leaveTimer.arm(after: leaveDeadline) }
    guard known != nil else { return finish(entry) }
    owesTurn = true
    followLeaving()
  }

  /// Takes revoked buffers off outputs that nothing new was shown on; true if there were any.
  func blankRevoked() -> Bool {
    guard inFlight == nil else { return false }
    var isBlanked = false
    for index in outputs.indices where owesBlank(index) {
      guard let link, link.outbox.isIdle else { break }
      isBlanked = true
      link.encoder.clear()
      takePagesOff(index, link)
      outputs[index].missed = outputs[index].size?.whole
      link.sendEncoded()
    }
    return isBlanked
  }

  private func owesBlank(_ index: Int) -> Bool {
    if outputs[index].pages?.isRevoked == true { return true }
    // Of an earlier socket, and the guest has nothing to show in its place.
    return outputs[index].mayHavePages && outputs[index].missed == nil && link?.features != nil
  }

  /// Asks QEMU to tell when it has taken the messages that let buffers go.
  func followLeaving() {
    for entry in imports where entry.isRevoked && !entry.isAsked {
      guard let link, let left = entry.left, inFlight?.buffer !== entry.buffer else { continue }
      entry.isAsked = link.barrier { [weak self, weak link, weak entry] isAnswered in
        guard let self, let entry, self.link === link else { return }
        if isAnswered { return confirmed(upTo: left) }
        entry.isAsked = false
        owesTurn = true
      }
    }
  }

  /// QEMU has taken so many of the messages about dma-bufs on outputs.
  private func confirmed(upTo count: UInt64) {
    let gone = imports.filter { entry in
      guard let left = entry.left else { return false }
      return left <= count && inFlight?.buffer !== entry.buffer
    }
    guard !gone.isEmpty else { return }
    imports.removeAll { entry in gone.contains { $0 === entry } }
    for entry in gone {
      entry.buffer.closed(by: recipient)
      finish(entry)
    }
  }

  /// QEMU has let a buffer go: whoever revoked it goes on once QEMU's GPU has read it, too, as far as
  /// the dma-buf's own fences tell, or at the deadline.
  private func finish(_ entry: QEMUImport) {
    parting.removeAll { $0 === entry }
    guard entry.deadline != nil, let busy = entry.buffer.busy else { return entry.finish() }
    do throws(Errno) {
      entry.readers = try FenceWatch(try readers(busy), on: loop) { [weak self, weak entry] in
        if let self, let entry { finish(entry) }
      }
      parting.append(entry)
    } catch {
      log.debug("cannot wait for the readers of buffer \(entry.buffer.id): \(error)")
      entry.finish()
    }
  }

  /// The guest does not wait any longer; the pages stay pinned.
  func dropLate() {
    let now = Clock.now
    for entry in imports + parting where entry.deadline.map({ $0 <= now }) ?? false {
      entry.finish()
    }
    parting.removeAll { $0.deadline == nil }
    if let next = (imports + parting).compactMap(\.deadline).min() {
      leaveTimer?.arm(after: next > now ? next &- now : 1)
    }
  }

  /// The socket is gone: QEMU may or may not have read what was sent last.
  func doubtAll() {
    for entry in imports {
      entry.left = nil
      entry.isAsked = false
    }
  }

  /// There is no QEMU that could have any buffer.
  func letAllGo() {
    let all = imports + parting
    imports.removeAll()
    parting.removeAll()
    for entry in all { entry.finish() }
  }
}
