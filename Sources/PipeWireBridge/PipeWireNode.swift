import Bridge
import CPipeWire
import Linux
import Logging
import PinholeFrames
import Pixels

/// One output as a video source in PipeWire.
///
/// The pool that PipeWire gets are the producer's copies themselves: nothing is copied on the way.
/// A frame is answered when PipeWire gives its buffer back, the newest one only once there is a
/// newer one: a picture that stands still is there for those who come late. One buffer at least is
/// memory of our own, into which a frame is copied that could not be shown otherwise: when those
/// who watch keep so many that the producer would have to wait, or where PipeWire's pool does not
/// have the frame's copy. It belongs to the event loop's thread.
final class PipeWireNode {
  private typealias Frame = (frame: ReceivedFrame, buffer: ReceivedBuffer)

  /// What is behind a buffer of PipeWire's.
  private enum Memory {
    /// One of the producer's copies, and a descriptor that outlives it.
    case copy(ReceivedBuffer, SharedFD)
    case own(PoolMemory)
  }

  private let producer: () -> FrameFeed?
  /// Answers a frame.
  private let answer: (ReceivedFrame, ReceivedBuffer) -> Void
  private let name: String
  private let description: String
  private let role: String
  private let pipeWire: OpaquePointer
  private let log: Logger
  private var node: OpaquePointer?
  private var shape = ph_pw_shape()
  private var isStreaming = false
  private var again: LoopTimer?
  private var retry: LoopTimer?
  private var pool: [UInt32: Memory] = [:]
  /// Frames that PipeWire has, by its buffers. The newest is among them for as long as it is that.
  private var lent: [UInt32: Frame] = [:]
  /// Frames that were not given to PipeWire: the newest, and older ones while nobody watches.
  private var waiting: [Frame] = []
  /// What the pool was made anew for.
  private weak var renewedFor: ReceivedBuffer?
  /// What was given to PipeWire last.
  private var newest: (id: UInt32, frame: ReceivedFrame)?
  /// What has changed since.
  private var damage: [Rect] = []
  private var isAllDamaged = true
  private var lastReleased: UInt64 = 0
  /// Frames that went on as they were, and that were copied, since somebody watches.
  private var counts = (shared: UInt64(0), copied: UInt64(0))

  private static let second: UInt64 = 1_000_000_000
  private static let frameTime: UInt64 = 16_000_000
  /// For so many nanoseconds without getting anything back nothing is copied.
  private static let patience: UInt64 = 100_000_000

  init(
    _ pipeWire: OpaquePointer, name: String, description: String, role: String, loop: EventLoop,
    log: Logger,
    producer: @escaping () -> FrameFeed?,
    answer: @escaping (ReceivedFrame, ReceivedBuffer) -> Void
  ) {
    self.pipeWire = pipeWire
    self.name = name
    self.description = description
    self.role = role
    self.log = log
    self.producer = producer
    self.answer = answer
    again = LoopTimer(on: loop) { [unowned self] in showAgain() }
    retry = LoopTimer(on: loop) { [unowned self] in collect() }
  }

  deinit { disconnect() }

  // MARK: Pinhole's side

  /// A frame came.
  func show(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) {
    guard let wanted = ph_pw_shape(frame, buffer) else { return answer(frame, buffer) }
    note(frame)
    // While nobody watches the producer's frames are kept: it makes no more of them.
    if isStreaming { answerWaiting() }
    waiting.append((frame, buffer))
    if node == nil {
      shape = wanted
      connect()
    } else if wanted != shape, let node {
      shape = wanted
      isAllDamaged = true
      ph_pw_node_reshape(node, shape)
    }
    renewPool()
    present()
  }

  /// Makes the node anew if its pool is of copies that are not used any more, as after a restart of
  /// the producer. Not under those who watch: for them frames are copied.
  private func renewPool() {
    guard node != nil, !isStreaming, !pool.isEmpty, let feed = producer(), feed.hasPool,
      let buffer = waiting.last?.buffer, ph_pw_shape(whole: buffer) == shape,
      !feed.buffers.contains(where: isPooled), renewedFor !== buffer
    else { return }
    renewedFor = buffer
    disconnect()
    connect()
  }

  private func isPooled(_ buffer: ReceivedBuffer) -> Bool {
    pool.values.contains { if case .copy(let other, _) = $0 { other === buffer } else { false } }
  }

  /// The producer is gone: its frames need no answer.
  func producerLost() {
    waiting = []
    lent = [:]
    changed(nil)
  }

  private func answerWaiting() {
    let old = waiting
    waiting = []
    for (frame, buffer) in old { answer(frame, buffer) }
  }

  private func note(_ frame: ReceivedFrame) {
    damage += frame.damage
    if frame.isFull || frame.hasSkipped || damage.count > Int(PH_PW_MAX_DAMAGE) {
      changed(nil)
    } else {
      for rect in frame.damage { changed(rect) }
    }
  }

  /// - Parameter rect: nil where anything may have changed.
  private func changed(_ rect: Rect?) {
    if rect == nil {
      isAllDamaged = true
      damage = []
    }
    for case .own(let memory) in pool.values { memory.changed(rect) }
  }

  // MARK: PipeWire's side

  /// Makes the node, if there is a picture for it.
  func connect() {
    guard node == nil, ph_pw_is_connected(pipeWire) == 1, shape.width > 0 else { return }
    var callbacks = ph_pw_callbacks(
      streaming: { user, on in PipeWireNode.of(user)?.watched(on == 1) },
      memory: { user, id, size in PipeWireNode.of(user)?.give(id, size) ?? -1 },
      removed: { user, id in PipeWireNode.of(user)?.removed(id) },
      released: { user, id in PipeWireNode.of(user)?.released(id) })
    var error: CInt = 0
    node = ph_pw_node_new(
      pipeWire, name, description, role, shape, &callbacks,
      Unmanaged.passUnretained(self).toOpaque(),
      &error)
  }

  /// Takes the node out of PipeWire.
  func disconnect() {
    guard let node else { return }
    self.node = nil
    ph_pw_node_free(node)
    watched(false)
    for id in pool.keys.sorted() { removed(id) }
  }

  private static func of(_ user: UnsafeMutableRawPointer?) -> PipeWireNode? {
    user.map { Unmanaged<PipeWireNode>.fromOpaque($0).takeUnretainedValue() }
  }

  private func watched(_ on: Bool) {
    if isStreaming, !on {
      log.info(
        "\(name): \(counts.shared) frames were passed on as they are, \(counts.copied) copied")
      counts = (0, 0)
    }
    isStreaming = on
    changed(nil)
    guard on else {
      again?.disarm()
      retry?.disarm()
      return renewPool()
    }
    again?.arm(after: Self.second, every: Self.second)
    present()
  }

  private func give(_ id: UInt32, _ size: UnsafeMutablePointer<UInt32>?) -> CInt {
    // The first one is ours, and those for which there is no copy.
    if id > 0, let copy = nextCopy, let bytes = UInt32(exactly: copy.size),
      let fd = try? OwnedFD.duplicate(of: copy.descriptor)
    {
      let shared = SharedFD(fd)
      pool[id] = .copy(copy, shared)
      size?.pointee = bytes
      return shared.raw
    }
    guard let memory = try? PoolMemory(size: shape.size) else { return -1 }
    pool[id] = .own(memory)
    size?.pointee = memory.size
    return memory.fd.raw
  }

  /// A copy of the present shape that PipeWire has not got yet.
  private var nextCopy: ReceivedBuffer? {
    producer()?.buffers.first { buffer in
      ph_pw_shape(whole: buffer) == shape && !isPooled(buffer)
    }
  }

  /// A buffer is not one of PipeWire's any more.
  private func removed(_ id: UInt32) {
    pool[id] = nil
    let isNewest = newest?.id == id
    if isNewest { newest = nil }
    guard let (frame, buffer) = lent.removeValue(forKey: id) else { return }
    // What is on screen stays for those who come.
    if isNewest, waiting.isEmpty {
      waiting = [(frame, buffer)]
    } else {
      answer(frame, buffer)
    }
  }

  /// PipeWire's consumers do not read a buffer any more.
  private func released(_ id: UInt32) {
    guard newest?.id != id, let (frame, buffer) = lent.removeValue(forKey: id) else { return }
    lastReleased = Clock.now
    answer(frame, buffer)
  }

  /// PipeWire gives a buffer back in the cycle after the one in which it was read: if all are out,
  /// there has to be another cycle.
  private func collect() {
    guard let node, isStreaming else { return }
    ph_pw_node_collect(node)
    present()
  }

  private func isFree(_ id: UInt32) -> Bool {
    guard let node else { return false }
    return ph_pw_node_is_free(node, id) == 1
  }

  /// The buffer of PipeWire's pool that is this memory, if nobody reads it.
  private func place(of buffer: ReceivedBuffer) -> UInt32? {
    pool.first { id, memory in
      guard case .copy(let copy, _) = memory, copy === buffer else { return false }
      return lent[id] == nil && isFree(id)
    }?.key
  }

  private var freeOwn: (id: UInt32, memory: PoolMemory)? {
    for (id, memory) in pool where id != newest?.id {
      if case .own(let own) = memory, isFree(id), own.size == shape.size { return (id, own) }
    }
    return nil
  }

  /// Gives the newest frame to PipeWire.
  func present() {
    guard isStreaming, let (frame, buffer) = waiting.last, ph_pw_shape(frame, buffer) == shape
    else { return }
    if let id = place(of: buffer) {
      // The producer's last place is for a frame that comes while all others are being read. Who is
      // slow gets the newest one later; who keeps all that there are gets a copy.
      guard lent.count + 1 < max(producer()?.maxInFlight ?? 1, 2) else {
        if Clock.now &- lastReleased > Self.patience { return copy(frame, buffer) }
        retry?.arm(after: Self.frameTime)
        return
      }
      waiting.removeLast()
      answerWaiting()
      lent[id] = (frame, buffer)
      counts.shared &+= 1
      queue(id, frame)
      return
    }
    copy(frame, buffer)
  }

  /// Gives a frame to PipeWire in memory of our own.
  private func copy(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) {
    guard let (id, memory) = freeOwn else {
      retry?.arm(after: Self.frameTime)
      return
    }
    guard memory.copy(buffer, frame.crop, row: Int(shape.stride)) else { return answerWaiting() }
    counts.copied &+= 1
    queue(id, frame)
    answerWaiting()
  }

  /// A picture that stands still is given again, for those who have come since.
  private func showAgain() {
    guard waiting.isEmpty, let newest else { return collect() }
    isAllDamaged = true
    if isFree(newest.id) { return queue(newest.id, newest.frame) }
    guard let (id, memory) = freeOwn, let current = pool[newest.id] else { return collect() }
    let isCopied =
      switch current {
      case .own(let own): memory.copy(own)
      case .copy(let buffer, _): memory.copy(buffer, newest.frame.crop, row: Int(shape.stride))
      }
    if isCopied { queue(id, newest.frame) }
  }

  private func queue(_ id: UInt32, _ frame: ReceivedFrame) {
    guard let node else { return }
    let all = [ph_pw_rect(x: 0, y: 0, width: shape.width, height: shape.height)]
    let parts = damage.map {
      ph_pw_rect(
        x: Int32(clamping: $0.x), y: Int32(clamping: $0.y), width: $0.width, height: $0.height)
    }
    let rects = isAllDamaged || parts.isEmpty ? all : parts
    let older = newest
    newest = (id, frame)
    damage = []
    isAllDamaged = false
    let result = ph_pw_node_queue(
      node, id, 0, shape.size, Int64(clamping: frame.timestamp), frame.serial, rects,
      CInt(rects.count))
    if result < 0 { isAllDamaged = true }
    if let older, older.id != id, isFree(older.id) { released(older.id) }
    again?.arm(after: Self.second, every: Self.second)
  }
}

extension ph_pw_shape: @retroactive Equatable {
  /// A frame's; nil where PipeWire has no name for its pixels.
  init?(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) {
    let crop = frame.crop
    let isWhole =
      crop == Rect(x: 0, y: 0, width: buffer.width, height: buffer.height) && buffer.offset == 0
    self.init(
      buffer, width: crop.width, height: crop.height,
      stride: isWhole ? buffer.stride : crop.width &* 4)
  }

  /// That of a frame which shows all of a buffer; nil for others.
  init?(whole buffer: ReceivedBuffer) {
    guard buffer.memory == .copy, buffer.offset == 0 else { return nil }
    self.init(buffer, width: buffer.width, height: buffer.height, stride: buffer.stride)
  }

  private init?(_ buffer: ReceivedBuffer, width: UInt32, height: UInt32, stride: UInt32) {
    guard let order = OpaqueOrder(buffer.fourcc), !buffer.isYInverted else { return nil }
    let named =
      switch order {
      case .bgrx: PH_PW_BGRX
      case .rgbx: PH_PW_RGBX
      case .xrgb: PH_PW_XRGB
      case .xbgr: PH_PW_XBGR
      }
    self.init(
      order: named.rawValue, width: width, height: height, stride: stride, size: stride &* height)
  }

  /// The same picture in the same memory.
  public static func == (a: ph_pw_shape, b: ph_pw_shape) -> Bool {
    (a.order, a.width, a.height, a.stride) == (b.order, b.width, b.height, b.stride)
  }
}
