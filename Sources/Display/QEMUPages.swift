import Buffers
import Fences
import Linux
import Logging
import VirtioGPU

/// A dma-buf on an output of QEMU's.
struct QEMUPages {
  let buffer: OfferedBuffer
  /// The part from its first pixel on that is shown.
  let layout: PixelLayout
  /// The buffer must not be shown any longer.
  var isWithdrawn = false

  func shows(the other: QEMUPages) -> Bool {
    buffer === other.buffer && layout == other.layout && !isWithdrawn
  }
}

/// A DMABUF_UPDATE that QEMU has not answered.
struct QEMUInFlight {
  let buffer: OfferedBuffer
  let hold: Hold?
  let number: Int
}

/// A withdrawn buffer that QEMU may still have.
final class QEMULeaving {
  let buffer: OfferedBuffer
  let deadline: UInt64
  var isAsked = false
  private var released: (() -> Void)?

  init(_ buffer: OfferedBuffer, deadline: UInt64, _ released: @escaping () -> Void) {
    self.buffer = buffer
    self.deadline = deadline
    self.released = released
  }

  func finish() {
    let call = released
    released = nil
    call?()
  }
}

// DMABUF_SCANOUT and DMABUF_UPDATE: QEMU imports the guest's own pages.
extension QEMUDisplay {
  /// Nanoseconds that a guest waits for QEMU to let its pages go.
  static let leaveDeadline: UInt64 = 40_000_000

  /// What every OpenGL driver imports.
  private static let importable: Set<FourCC> = [.xrgb8888, .argb8888, .xbgr8888, .abgr8888]

  /// Nanoseconds until a DMABUF_UPDATE is given up: software rendering takes a second.
  var presentPatience: UInt64 { patience &* 5 }

  /// The dma-buf of a frame; nil if its pixels have to be sent.
  ///
  /// QEMU drops the position inside the dma-buf, so the picture has to begin at its first byte.
  func importable(_ frame: Frame) -> QEMUPages? {
    guard wantsBuffers, let buffer = frame.buffer, buffer.memory == .guestPages,
      buffer.layout.offset == 0, frame.bufferCrop.x == 0, frame.bufferCrop.y == 0,
      Self.importable.contains(buffer.layout.fourcc)
    else { return nil }
    let layout = PixelLayout(
      width: frame.bufferCrop.width, height: frame.bufferCrop.height,
      stride: buffer.layout.stride, fourcc: buffer.layout.fourcc)
    return QEMUPages(buffer: buffer, layout: layout)
  }

  /// Shows a dma-buf and what changed in it, or remembers that QEMU misses it.
  func show(_ pages: QEMUPages, of frame: Frame) {
    let index = frame.output
    let isShown = outputs[index].pages?.shows(the: pages) ?? false
    if !isShown { outputs[index].missed = outputs[index].size?.whole }
    guard let link, link.features != nil, link.outbox.isIdle, link.hasRoomForQuestions,
      inFlight == nil
    else { return }
    guard isShown || scanout(pages, on: index, link) else { return }
    let rect = outputs[index].missed.flatMap { outputs[index].size?.whole.intersection($0) }
    outputs[index].missed = nil
    guard self.link === link, let rect else { return }
    link.encoder.clear()
    link.encoder.dmabufUpdate(output: UInt32(clamping: index), rect: rect)
    frame.hold?.retain()
    pages.buffer.beginUse()
    counted.dmabufUpdates += 1
    let number = counted.dmabufUpdates
    inFlight = QEMUInFlight(buffer: pages.buffer, hold: frame.hold, number: number)
    link.sendUpdate(patience: presentPatience) { [weak self, weak link] presented in
      guard let self else { return }
      landed(number, presented && self.link === link)
    }
    if !leaving.isEmpty { followLeaving() }
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
      outputs[index].surface = size
      guard self.link === link, link.outbox.isIdle else { return false }
    }
    let hasModifier = link.features?.contains(.dmabuf2) ?? false
    link.encoder.clear()
    link.encoder.dmabufScanout(
      output: output, layout: pages.layout, modifier: hasModifier ? linearModifier : nil)
    guard link.sendEncoded(with: pages.buffer.fd.raw), self.link === link else { return false }
    outputs[index].pages = pages
    outputs[index].announced = nil
    counted.dmabufs += 1
    log.debug("output \(index): QEMU imports buffer \(pages.buffer.id).\(pages.buffer.generation)")
    return true
  }

  /// QEMU has answered a DMABUF_UPDATE, or will not.
  private func landed(_ number: Int, _ presented: Bool) {
    guard let done = inFlight, done.number == number else { return }
    inFlight = nil
    finish(done)
    if !presented, link != nil { giveUpPages() }
    owesTurn = true
    followLeaving()
    catchUp()
  }

  /// Lets a frame go once QEMU's GPU, too, has read it.
  private func finish(_ done: QEMUInFlight) {
    func release() {
      done.hold?.release()
      done.buffer.endUse()
    }
    let fd = done.buffer.fd.raw
    guard link != nil, !DmaBufFences.isIdle(fd) else { return release() }
    do throws(Errno) {
      let readers = SharedFD(try DmaBufFences.users(of: fd).intoFD())
      reading[done.number] = try FenceWatch(readers, on: loop) { [weak self] in
        release()
        self?.reading[done.number] = nil
      }
    } catch { release() }
  }

  /// Negotiation has ended.
  func agreed(on link: QEMULink) {
    guard self.link === link, way == .dmabuf else { return }
    if link.features == nil { return giveUpPages() }
    catchUp()
  }

  /// QEMU gets pixels until it brings another socket.
  private func giveUpPages() {
    guard !hasGivenUpPages else { return }
    hasGivenUpPages = true
    log.warning("QEMU's display does not answer for the guest's pages; it gets copies of them")
    for index in outputs.indices where outputs[index].pages != nil {
      outputs[index].pages?.isWithdrawn = true
    }
    owesTurn = true
  }

  // MARK: Letting go

  /// A buffer must not be shown any more.
  func letGo(of buffer: OfferedBuffer, _ released: @escaping () -> Void) {
    var isHeld = inFlight?.buffer === buffer
    for index in outputs.indices where outputs[index].pages?.buffer === buffer {
      outputs[index].pages?.isWithdrawn = true
      isHeld = true
    }
    guard isHeld, let leaveTimer else { return released() }
    leaving.append(
      QEMULeaving(buffer, deadline: Clock.now &+ Self.leaveDeadline, released))
    if !leaveTimer.isArmed { leaveTimer.arm(after: Self.leaveDeadline) }
    owesTurn = true
    followLeaving()
  }

  /// Takes withdrawn buffers off outputs that nothing new was shown on.
  func blankWithdrawn() {
    guard inFlight == nil else { return }
    for index in outputs.indices where outputs[index].pages?.isWithdrawn == true {
      guard let link, link.outbox.isIdle else { return }
      link.encoder.clear()
      link.encoder.dmabufScanoutOff(output: UInt32(clamping: index))
      outputs[index].pages = nil
      outputs[index].announced = nil
      outputs[index].missed = outputs[index].size?.whole
      link.sendEncoded()
    }
    followLeaving()
  }

  /// Asks QEMU to tell when it has taken the messages that let buffers go.
  func followLeaving() {
    for entry in leaving where !entry.isAsked {
      guard let link, inFlight?.buffer !== entry.buffer,
        !outputs.contains(where: { $0.pages?.buffer === entry.buffer })
      else { continue }
      entry.isAsked = true
      link.barrier { [weak self] in
        self?.leaving.removeAll { $0 === entry }
        entry.finish()
      }
    }
  }

  /// The guest does not wait any longer.
  func dropLate() {
    let now = Clock.now
    let late = leaving.filter { $0.deadline <= now }
    leaving.removeAll { $0.deadline <= now }
    if let next = leaving.first { leaveTimer?.arm(after: max(1, next.deadline &- now)) }
    for entry in late { entry.finish() }
  }

  /// There is no QEMU that could have any buffer.
  func letAllGo() {
    let all = leaving
    leaving.removeAll()
    for entry in all { entry.finish() }
  }
}
