import Buffers
import Fences
import Linux
import Logging
import VirtioGPU

/// Shows the guest's outputs in QEMU, over the socket that VHOST_USER_GPU_SET_SOCKET brings.
///
/// Nothing here ever waits for QEMU. Pixels go from where they lie to the kernel while
/// ``present(_:)`` runs; the rest of a message that the socket does not take is copied once, at
/// most ``QEMUDisplay/maxUpdate`` bytes. While such a rest waits, everything else is remembered
/// as state, not as messages: the damage of each output, its size, its cursor. Once the socket
/// has drained, what QEMU misses is sent as it is then, with pixels asked of the
/// ``DisplaySource`` again. So memory stays bounded however slowly QEMU reads.
///
/// With ``Way/dmabuf`` QEMU gets the guest's own pages where there is a dma-buf of them, and pixels
/// otherwise; see QEMUPages.swift.
///
/// SCANOUT goes out together with the first UPDATE after it, because QEMU shows the new surface
/// only then and forgets an earlier one that was never shown without freeing it.
public final class QEMUDisplay: DisplaySink, DisplayInfoSource {
  /// What happened since the start.
  public struct Counters: Equatable, Sendable {
    /// Sockets that were attached.
    public var sockets = 0
    /// UPDATE messages.
    public var updates = 0
    /// Frames that could not be sent at once and were merged into a later update.
    public var coalesced = 0
    /// Bytes the kernel took.
    public var bytesSent: UInt64 = 0
    /// Bytes copied because a socket was full.
    public var bytesCopied: UInt64 = 0
    /// DMABUF_SCANOUT messages with a dma-buf.
    public var dmabufs = 0
    /// DMABUF_UPDATE messages.
    public var dmabufUpdates = 0
  }

  /// What pictures travel as.
  public enum Way: Sendable {
    /// Pixels, which every display of QEMU's can show.
    case pixels
    /// dma-bufs over the guest's pages, which only a display with OpenGL can show.
    case dmabuf
  }

  /// Most bytes of pixels in one UPDATE; larger frames are sent in bands of rows.
  public static let maxUpdate = 64 << 20
  /// Nanoseconds until a question to QEMU is given up.
  public static let patience: UInt64 = 1_000_000_000
  /// Most pixels across or down that QEMU is asked to show.
  public static let maxSide: UInt32 = 16_384

  /// Shows everything again when QEMU misses something.
  public weak var source: (any DisplaySource)?
  /// Called when ``wantsBuffers`` has changed, at the end of a turn of the event loop.
  public var onDemandChanged: (() -> Void)?
  /// Whether QEMU is there and gets the guest's pages.
  public var wantsBuffers: Bool { way == .dmabuf && link != nil && !hasGivenUpPages }

  let way: Way
  let log: Logger
  let patience: UInt64
  let loop: EventLoop
  private let maxUpdate: Int
  var link: QEMULink?
  var outputs = [QEMUOutput](repeating: QEMUOutput(), count: DisplayInfo.outputs)
  var counted = Counters()
  private let pixels = QEMUPixels()
  /// The DMABUF_UPDATE that QEMU has not answered: it has one flag for all its consoles.
  var inFlight: QEMUInFlight?
  /// Frames that QEMU has answered for while its GPU still reads them, by number.
  var reading: [Int: FenceWatch] = [:]
  /// QEMU did not answer a DMABUF_UPDATE on this socket.
  var hasGivenUpPages = false
  /// Buffers that QEMU has to let go.
  var leaving: [QEMULeaving] = []
  var leaveTimer: LoopTimer?
  /// There is something to do at the end of the turn.
  var owesTurn = false
  private var hadDemand = false
  /// The output that a replay serves now, nil while frames come from the guest.
  private(set) var turn: Int?
  private var wasServed = false
  private var lastTurn = 0
  private var hasWarned = false

  /// A display without a socket: it shows nothing and knows nothing.
  public convenience init(on loop: EventLoop, log: Logger, way: Way = .pixels) {
    self.init(on: loop, log: log, way: way, maxUpdate: Self.maxUpdate, patience: Self.patience)
  }

  /// - Parameters:
  ///   - maxUpdate: most bytes of pixels in one UPDATE.
  ///   - patience: nanoseconds until a question to QEMU is given up.
  init(on loop: EventLoop, log: Logger, way: Way = .pixels, maxUpdate: Int, patience: UInt64) {
    self.loop = loop
    self.way = way
    self.log = log
    self.maxUpdate = maxUpdate
    self.patience = patience
    guard way == .dmabuf else { return }
    leaveTimer = try? LoopTimer(on: loop) { [unowned self] in dropLate() }
    loop.everyTurn { [weak self] in self?.endOfTurn() }
  }

  deinit { link?.close() }

  /// Whether there is a socket.
  public var isAttached: Bool { link != nil }

  /// What happened since the start.
  public var counters: Counters {
    var sum = counted
    sum.bytesSent &+= link?.outbox.bytesSent ?? 0
    sum.bytesCopied &+= link?.outbox.bytesCopied ?? 0
    return sum
  }

  /// Bytes that wait for the socket in memory of their own.
  var bytesWaiting: Int { link?.outbox.bytesWaiting ?? 0 }

  // MARK: The socket

  /// Takes over QEMU's display socket in place of an earlier one, and shows everything on it.
  ///
  /// QEMU makes a new one at each start of the guest: boot, reboot, and stop/cont.
  public func attach(_ socket: consuming OwnedFD) {
    detach()
    guard UnixSocket.isSocket(socket.raw, kind: .stream) else {
      return log.warning("QEMU's display socket is not a Unix stream socket; its display stays")
    }
    let new: QEMULink
    do throws(Errno) { new = try QEMULink(socket, on: loop, patience: patience) } catch {
      log.warning("QEMU's display socket cannot be used: \(error); its display stays as it is")
      return
    }
    new.onDrained = { [unowned self] in
      owesTurn = true
      catchUp()
    }
    new.onAgreed = { [unowned self, unowned new] in agreed(on: new) }
    new.onFailure = { [unowned self, unowned new] failure in drop(new, failure) }
    link = new
    hasGivenUpPages = false
    owesTurn = true
    counted.sockets += 1
    new.negotiate()
    source?.replay(to: self)
  }

  /// Closes the socket; questions that wait get nil.
  public func detach() {
    guard let old = link else { return }
    link = nil
    counted.bytesSent &+= old.outbox.bytesSent
    counted.bytesCopied &+= old.outbox.bytesCopied
    for index in outputs.indices { outputs[index].forgetSent() }
    old.close()
    owesTurn = true
    letAllGo()
  }

  private func drop(_ failed: QEMULink, _ failure: QEMULink.Failure) {
    guard link === failed else { return }
    detach()
    switch failure {
    case .closed: log.debug("QEMU closed its display socket")
    case .socket(let error): log.debug("QEMU's display socket is gone: \(error)")
    case .message(.tooLarge(let request, let size)):
      log.warning(
        "QEMU's display socket is closed: message \(request) announces \(size) bytes of payload")
    case .reply(let request, let size, let refusal):
      log.warning(
        "QEMU's display socket is closed: message \(request) of \(size) bytes: \(refusal)")
    }
  }

  // MARK: DisplayInfoSource

  /// Asks QEMU; nil without a socket, or when the reply takes longer than a second.
  public func displayInfo(_ completion: @escaping (DisplayInfo?) -> Void) {
    guard let link else { return completion(nil) }
    link.displayInfo(completion)
  }

  /// Asks QEMU; nil without a socket, for an output QEMU does not have, or after a second.
  public func edid(output: Int, _ completion: @escaping ([UInt8]?) -> Void) {
    guard let link, outputs.indices.contains(output) else { return completion(nil) }
    link.edid(output: UInt32(output), completion)
  }

  // MARK: DisplaySink

  /// Remembers the size, which QEMU is told with the first frame, or tells it that there is none.
  public func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    guard outputs.indices.contains(index) else { return }
    outputs[index].size = size.map { QEMUOutput.Size(width: $0.width, height: $0.height) }
    if turn == nil || size == nil { outputs[index].missed = outputs[index].size?.whole }
    sendOwed()
  }

  /// Sends what changed, or remembers it while the socket is full.
  public func present(_ frame: Frame) {
    guard outputs.indices.contains(frame.output), link != nil else { return }
    if let turn {
      guard turn == frame.output else { return }
      wasServed = true
    }
    guard isShowable(frame) else { return outputs[frame.output].missed = nil }
    let size = QEMUOutput.Size(width: frame.crop.width, height: frame.crop.height)
    outputs[frame.output].size = size
    if turn == nil { outputs[frame.output].miss(frame.damage) }
    if let pages = importable(frame) {
      show(pages, of: frame)
    } else {
      if outputs[frame.output].announced != size { outputs[frame.output].missed = size.whole }
      send(frame)
    }
    if turn == nil, outputs[frame.output].missed != nil { counted.coalesced += 1 }
  }

  /// Has QEMU let a buffer go, with the frame that follows or at the end of the turn.
  public func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) { letGo(of: buffer, released) }

  /// Shows the cursor as it is now, once the socket has room.
  public func cursor(_ state: CursorState, imageChanged: Bool) {
    guard outputs.indices.contains(state.output) else { return }
    outputs[state.output].cursor = state
    sendOwed()
  }

  // MARK: Sending

  private func isShowable(_ frame: Frame) -> Bool {
    let crop = frame.crop
    if !crop.isEmpty, crop.width <= Self.maxSide, crop.height <= Self.maxSide,
      QEMUPixels.canRead(crop, of: frame.pixels)
    {
      return true
    }
    if !hasWarned {
      log.warning(
        """
        output \(frame.output) cannot be shown in QEMU: \(crop.width)x\(crop.height) pixels of \
        \(frame.pixels.layout.fourcc); use a mode of at most \(Self.maxSide) pixels a side
        """)
    }
    hasWarned = true
    return false
  }

  /// Sends what an output missed, in bands, while the socket takes it.
  private func send(_ frame: Frame) {
    while let link, link.outbox.isIdle,
      let band = outputs[frame.output].takeBand(limit: maxUpdate)
    {
      update(frame, band, on: link)
    }
  }

  /// Sends one UPDATE, and the SCANOUT that has to precede it.
  ///
  /// - Parameter band: in pixels of the output.
  private func update(_ frame: Frame, _ band: Rect, on link: QEMULink) {
    let output = UInt32(clamping: frame.output)
    let size = outputs[frame.output].size
    link.encoder.clear()
    if let size, outputs[frame.output].announced != size {
      if outputs[frame.output].pages != nil { link.encoder.dmabufScanoutOff(output: output) }
      outputs[frame.output].pages = nil
      link.encoder.scanout(output: output, width: size.width, height: size.height)
      outputs[frame.output].announced = size
      outputs[frame.output].surface = size
    }
    link.encoder.update(output: output, rect: band)
    let inPicture = Rect(
      x: frame.crop.x + band.x, y: frame.crop.y + band.y, width: band.width, height: band.height)
    let isWhole = link.encoder.bytes.withUnsafeBytes { header in
      if let base = header.baseAddress { link.outbox.add(base, header.count) }
      return pixels.send(inPicture, of: frame.pixels, into: link.outbox)
    }
    counted.updates += 1
    guard isWhole else {
      log.warning("an update of output \(frame.output) had fewer pixels than it announced")
      return detach()
    }
    link.settle()
    if !leaving.isEmpty { followLeaving() }
  }

  /// Sends disabled outputs and cursors, while the socket takes them.
  func sendOwed() {
    for index in outputs.indices {
      guard let link, link.outbox.isIdle else { return }
      link.encoder.clear()
      if outputs[index].owesDisable {
        if outputs[index].pages != nil { link.encoder.dmabufScanoutOff(output: UInt32(index)) }
        outputs[index].pages = nil
        outputs[index].announced = nil
        outputs[index].surface = nil
        link.encoder.scanout(output: UInt32(index), width: 0, height: 0)
        link.sendEncoded()
      }
      guard self.link === link, link.outbox.isIdle, outputs[index].owesCursor else { continue }
      sendCursor(of: index, on: link)
    }
  }

  private func sendCursor(of index: Int, on link: QEMULink) {
    guard let cursor = outputs[index].cursor else { return }
    let image = outputs[index].owedImage
    outputs[index].sentCursor = cursor
    outputs[index].showsCursor = cursor.image != nil
    link.encoder.clear()
    guard let image else {
      link.encoder.cursorPosition(
        output: UInt32(index), x: cursor.x, y: cursor.y, visible: cursor.image != nil)
      return link.sendEncoded()
    }
    link.encoder.cursorUpdate(
      output: UInt32(index), x: cursor.x, y: cursor.y,
      hotX: min(cursor.hotX, QEMUWire.cursorSide - 1),
      hotY: min(cursor.hotY, QEMUWire.cursorSide - 1), pixels: image.fixedSize())
    link.sendEncoded()
  }

  /// The socket has room again: sends what QEMU missed, each output in its turn.
  func catchUp() {
    guard turn == nil else { return }
    sendOwed()
    for _ in outputs.indices {
      guard let link, link.outbox.isIdle, let source, let next = nextMissed() else { return }
      lastTurn = next
      turn = next
      wasServed = false
      source.replay(to: self)
      turn = nil
      if !wasServed { outputs[next].missed = nil }
    }
  }

  private func nextMissed() -> Int? {
    for step in 1...outputs.count {
      let index = (lastTurn + step) % outputs.count
      if inFlight != nil, outputs[index].pages != nil { continue }
      if outputs[index].missed != nil, outputs[index].size != nil { return index }
    }
    return nil
  }

  /// What cannot be done while the device is in the middle of something.
  private func endOfTurn() {
    guard owesTurn else { return }
    owesTurn = false
    blankWithdrawn()
    sendOwed()
    catchUp()
    guard hadDemand != wantsBuffers else { return }
    hadDemand = wantsBuffers
    onDemandChanged?()
  }
}
