import Buffers
import Fences
import Linux
import Logging
import Pixels
import Scene

/// Shows the guest's outputs in QEMU, over the socket that VHOST_USER_GPU_SET_SOCKET brings.
///
/// Nothing here ever waits for QEMU. Pixels are copied once, while ``pull(_:)`` runs, at most
/// ``QEMUDisplay/maxUpdate`` bytes at a time, and go to QEMU by reference (``QEMUStage``); those of
/// a ``StillPicture`` are not copied at all. While the socket is full, everything else is remembered
/// as state, not as messages: the damage of each output, its size, its cursor. Once the socket
/// has drained, what QEMU misses is pulled from the ``Scene`` as it is then. So memory stays bounded however slowly QEMU reads.
///
/// With ``Way/dmabuf`` QEMU gets the guest's own pages where there is a dma-buf of them, and pixels
/// otherwise; see QEMUPages.swift.
///
/// SCANOUT goes out together with the first UPDATE after it, because QEMU shows the new surface
/// only then and forgets an earlier one that was never shown without freeing it.
public final class QEMUDisplay: Sink, DisplayInfoSource {
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
    /// Bytes copied into memory of our own on their way.
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
  /// Bytes asked for the socket's SO_SNDBUF; the kernel gives at most `net.core.wmem_max`, doubled.
  public static let sendBuffer: CInt = 4 << 20
  /// Nanoseconds until a question to QEMU is given up.
  public static let patience: UInt64 = 1_000_000_000
  /// Most pixels across or down that QEMU is asked to show.
  public static let maxSide: UInt32 = 16_384

  /// Whether QEMU is there and gets the guest's pages.
  public var wantsBuffers: Bool { way == .dmabuf && link != nil && !hasGivenUpPages }

  unowned let scene: Scene
  let way: Way
  let log: Logger
  let patience: UInt64
  /// Nanoseconds that a guest waits for QEMU to let its pages go.
  let leaveDeadline: UInt64
  let loop: EventLoop
  private let maxUpdate: Int
  private let sendBuffer: CInt?
  var link: QEMULink?
  var outputs = [QEMUOutput](repeating: QEMUOutput(), count: DisplayInfo.outputs)
  var counted = Counters()
  /// The DMABUF_UPDATE that QEMU has not answered: it has one flag for all its consoles.
  var inFlight: QEMUInFlight?
  /// Frames that QEMU has answered for while its GPU still reads them, by number.
  var reading: [Int: FenceWatch] = [:]
  /// QEMU did not answer a DMABUF_UPDATE on this socket.
  var hasGivenUpPages = false
  /// The dma-bufs that QEMU may have, whatever became of the socket that brought them.
  var imports: [QEMUImport] = []
  /// Revoked dma-bufs that QEMU has let go, and that its GPU still reads.
  var parting: [QEMUImport] = []
  /// A fence of all who use a dma-buf now; tests have no dma-bufs.
  var readers: (SharedFD) throws(Errno) -> SharedFD = { (dmaBuf) throws(Errno) in
    SharedFD(try DmaBufFences.users(of: dmaBuf.raw).intoFD())
  }
  let recipient = Recipient("QEMU's display")
  /// Counts the messages that put a dma-buf on an output or take it off.
  var scanouts: UInt64 = 0
  var leaveTimer: LoopTimer?
  /// There is something to do at the end of the turn.
  var owesTurn = false
  private var lastTurn = 0
  private var hasWarned = false
  /// A front-end has had a send wait; it costs two seconds once, whatever sockets it brings.
  private var hasWaited = false

  /// A display without a socket: it shows nothing and knows nothing.
  ///
  /// - Parameters:
  ///   - scene: what it shows; it has to be added there.
  ///   - leaveDeadline: nanoseconds that a guest waits for QEMU to let its pages go.
  public convenience init(
    _ scene: Scene, on loop: EventLoop, log: Logger, way: Way = .pixels,
    leaveDeadline: UInt64 = HoldQueue.defaultDeadline
  ) {
    self.init(
      scene, on: loop, log: log, way: way, maxUpdate: Self.maxUpdate, patience: Self.patience,
      leaveDeadline: leaveDeadline, sendBuffer: Self.sendBuffer)
  }

  /// - Parameters:
  ///   - maxUpdate: most bytes of pixels in one UPDATE.
  ///   - patience: nanoseconds until a question to QEMU is given up.
  ///   - leaveDeadline: nanoseconds that a guest waits for QEMU to let its pages go.
  ///   - sendBuffer: bytes asked for SO_SNDBUF; nil leaves sockets as they come.
  init(
    _ scene: Scene, on loop: EventLoop, log: Logger, way: Way = .pixels, maxUpdate: Int,
    patience: UInt64, leaveDeadline: UInt64 = HoldQueue.defaultDeadline, sendBuffer: CInt? = nil
  ) {
    self.scene = scene
    self.loop = loop
    self.way = way
    self.log = log
    self.maxUpdate = maxUpdate
    self.patience = patience
    self.leaveDeadline = leaveDeadline
    self.sendBuffer = sendBuffer
    guard way == .dmabuf else { return }
    leaveTimer = LoopTimer(on: loop) { [unowned self] in dropLate() }
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
    do throws(Errno) {
      new = try QEMULink(
        socket, on: loop, patience: patience, sendBuffer: sendBuffer, copies: hasWaited)
    } catch {
      log.warning("QEMU's display socket cannot be used: \(error); its display stays as it is")
      return
    }
    new.onDrained = { [unowned self] in owesTurn = true }
    new.onAgreed = { [unowned self, unowned new] in agreed(on: new) }
    new.onFailure = { [unowned self, unowned new] failure in drop(new, failure) }
    link = new
    hasGivenUpPages = false
    owesTurn = true
    counted.sockets += 1
    new.negotiate()
    catchUp()
  }

  /// The front-end is gone, and with it whatever it showed.
  public func frontEndLeft() {
    detach()
    outputs = outputs.map { old in
      var new = QEMUOutput()
      (new.size, new.cursor, new.missed) = (old.size, old.cursor, old.missed)
      return new
    }
    letAllGo()
  }

  /// Closes the socket; questions that wait get nil.
  ///
  /// QEMU goes on showing what it has; the next socket tells it what is gone.
  public func detach() {
    guard let old = link else { return }
    link = nil
    counted.bytesSent &+= old.outbox.bytesSent
    counted.bytesCopied &+= old.outbox.bytesCopied
    if old.outbox.hasWaited, !hasWaited {
      hasWaited = true
      log.warning("QEMU's display socket was made to wait; all it gets is copied from now on")
    }
    for index in outputs.indices { outputs[index].forgetSent() }
    old.close()
    doubtAll()
    owesTurn = true
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

  // MARK: Sink

  /// Outputs of which QEMU misses something that it has room for.
  public var lateOutputs: OutputSet {
    var set: OutputSet = []
    guard owesTurn, let link, link.outbox.isIdle else { return set }
    for index in outputs.indices where outputs[index].missed != nil { set.insert(OutputSet(index)) }
    return set
  }

  /// Sends what changed, or remembers it while the socket is full.
  ///
  /// QEMU is told of a size with the first frame that has it, or that there is none.
  public func pull(_ changed: OutputSet) {
    for index in outputs.indices where changed.contains(OutputSet(index)) {
      let news = scene.news(of: index)
      if news.isResized || outputs[index].size == nil {
        outputs[index].size = scene.size(index).map { .init(width: $0.width, height: $0.height) }
        outputs[index].missed = nil
      }
      if news.hasPicture { outputs[index].miss(news.damage) }
      outputs[index].cursor = scene.cursor(index)
    }
    guard let link else { return }
    link.outbox.review()
    sendOwed()
    for index in outputs.indices where changed.contains(OutputSet(index)) {
      guard outputs[index].missed != nil else { continue }
      serve(index)
      if outputs[index].missed != nil { counted.coalesced += 1 }
    }
  }

  /// Sends what QEMU missed, and has it let go of what was revoked.
  public func pullLate() {
    guard owesTurn else { return }
    owesTurn = false
    catchUp()
    if blankRevoked() { catchUp() }
    followLeaving()
  }

  /// Unlocks the pictures that QEMU has read.
  public func reviewLocks() { link?.outbox.review() }

  /// Has QEMU let a buffer go, with the frame that follows or at the end of the turn.
  public func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {
    letGo(of: buffer, lock)
  }

  /// Whether QEMU has a dma-buf on one of its outputs.
  public func shows(_ buffer: OfferedBuffer) -> Bool {
    outputs.contains { $0.pages?.buffer === buffer }
  }

  // MARK: Sending

  /// Sends what an output misses of its picture, as far as there is room.
  private func serve(_ index: Int) {
    guard let commit = scene.commit(of: index), isShowable(commit) else {
      return outputs[index].missed = nil
    }
    if let pages = importable(commit) { return show(pages, on: index) }
    let size = outputs[index].size
    if outputs[index].announced != size { outputs[index].missed = size?.whole }
    send(commit)
  }

  private func isShowable(_ frame: Commit) -> Bool {
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
  private func send(_ frame: Commit) {
    while let link, link.outbox.isIdle,
      let band = outputs[frame.output].takeBand(limit: maxUpdate)
    {
      update(frame, band, on: link)
    }
  }

  /// Sends one UPDATE, and the SCANOUT that has to precede it.
  ///
  /// - Parameter band: in pixels of the output.
  private func update(_ frame: Commit, _ band: Rect, on link: QEMULink) {
    let output = UInt32(clamping: frame.output)
    let size = outputs[frame.output].size
    link.encoder.clear()
    if let size, outputs[frame.output].announced != size {
      takePagesOff(frame.output, link)
      link.encoder.scanout(output: output, width: size.width, height: size.height)
      outputs[frame.output].announced = size
      outputs[frame.output].tell(size)
    }
    link.encoder.update(output: output, rect: band)
    let inPicture = Rect(
      x: frame.crop.x + band.x, y: frame.crop.y + band.y, width: band.width, height: band.height)
    let isWhole = link.encoder.bytes.withUnsafeBytes { header in
      if let base = header.baseAddress { link.outbox.add(base, header.count) }
      return QEMUPixels.send(
        inPicture, of: frame.pixels, still: frame.still, into: link.outbox)
    }
    counted.updates += 1
    guard isWhole else {
      log.warning("an update of output \(frame.output) had fewer pixels than it announced")
      return detach()
    }
    link.settle()
    if !imports.isEmpty { followLeaving() }
  }

  /// Sends disabled outputs and cursors, while the socket takes them.
  func sendOwed() {
    for index in outputs.indices {
      guard let link, link.outbox.isIdle else { return }
      link.encoder.clear()
      if outputs[index].owesDisable {
        takePagesOff(index, link)
        outputs[index].announced = nil
        outputs[index].tell(nil)
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
    outputs[index].tell(cursor: cursor)
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

  /// Sends what QEMU missed, each output in its turn.
  private func catchUp() {
    sendOwed()
    for _ in outputs.indices {
      guard let link, link.outbox.isIdle, let next = nextMissed() else { return }
      lastTurn = next
      serve(next)
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
}
