import Buffers
import Fences
import FrameProtocol
import Linux
import Logging
import PinholeProtocol
import Scene

/// One consumer's connection.
///
/// Nothing is queued for it but the newest state: which outputs, frames, cursors and removals
/// it has not been told of. So a consumer that does not read costs a bounded amount of memory.
final class FrameClient {
  static let maxBuffers = 256
  static let maxOverdue = 64

  unowned let server: FrameServer
  let socket: SharedFD
  let peer: UnixSocket.Peer
  /// Its process, which may have other connections.
  let recipient: Recipient
  var token: EventLoop.Token?
  var helloTimer: LoopTimer?
  var name = "?"
  /// `PINHOLE_FEATURE_*` that hold.
  var features: UInt64 = 0
  /// What it asks of the rows of a picture.
  var alignment = CopyAlignment()
  /// It gets nothing but read-only copies.
  var isCopyOnly = false
  /// It promised to leave no readers behind a FRAME_DONE.
  var isExplicit = false
  /// It came where nothing but copies is shown: it may pass no descriptors either.
  var isUntrusted = false
  var isGreeted = false
  var isGone = false
  /// The socket is full; it is watched for room.
  var isBlocked = false
  var known: [FrameBufferKey: KnownBuffer] = [:]
  /// Keys whose removal is queued, oldest first.
  var removals: [FrameBufferKey] = []
  /// Removals past their deadline.
  var overdue = 0
  /// Frames in flight, or still read, past their deadline. While there are any it gets copies,
  /// which hold nobody.
  var late = 0
  /// What it was sent and did, for ``FrameServer/reports``.
  var counted = FrameConsumerReport.Counters()
  /// A frame is ready, but others hold all copies.
  var waitsForCopy = false
  /// An image of a cursor may still lie in the socket, which no other is to join: whoever does not
  /// read shall keep no more memory than that.
  var mayHaveImage = false
  /// It may have room for what it was not sent: it is looked after at the end of the turn.
  var wantsMore = false
  var outputs = [FrameClientOutput](
    repeating: FrameClientOutput(), count: Int(PINHOLE_MAX_OUTPUTS))

  init(
    _ socket: consuming OwnedFD, peer: UnixSocket.Peer, _ recipient: Recipient, server: FrameServer
  ) {
    self.socket = SharedFD(socket)
    self.peer = peer
    self.recipient = recipient
    self.server = server
    for index in outputs.indices { outputs[index].inFlight.reserveCapacity(4) }
  }

  /// It passes copies on, and wants to know all of them beforehand.
  var isPooling: Bool { features & PINHOLE_FEATURE_POOL != 0 }
  /// Frames of one output without FRAME_DONE.
  var maxInFlight: Int {
    isPooling ? server.options.maxPooledInFlight : server.options.maxInFlight
  }

  /// How logs call it.
  var label: String { "frame consumer \"\(name)\" (process \(peer.pid))" }

  // MARK: What the scene says

  /// Takes what has changed on an output, or notes what it owes.
  func note(_ news: News, of index: Int) {
    if news.isResized {
      outputs[index].sizeIsNews = true
      outputs[index].isPending = false
      outputs[index].needsFull = true
    }
    if news.hasPicture {
      if outputs[index].isPending {
        outputs[index].hasSkipped = true
        server.counters.dropped &+= 1
        counted.skipped &+= 1
      }
      outputs[index].damage.add(news.damage)
      outputs[index].isPending = true
    }
    if news.hasCursor { outputs[index].cursorIsNews = true }
  }

  /// It has just come: everything is news to it.
  func noteAll() {
    for index in outputs.indices where server.scene.lit.contains(OutputSet(index)) {
      outputs[index].sizeIsNews = server.scene.size(index) != nil
      outputs[index].isPending = server.scene.hasPicture(index)
      outputs[index].cursorIsNews = server.scene.cursor(index) != nil
    }
    wantsMore = true
  }

  /// Outputs for which it would take a frame now.
  var lateOutputs: OutputSet {
    guard wantsMore, isGreeted, !isBlocked else { return [] }
    var set: OutputSet = []
    for index in outputs.indices
    where outputs[index].isPending && outputs[index].inFlight.count < maxInFlight {
      set.insert(OutputSet(index))
    }
    return set
  }

  /// Takes a generation back; adds itself to those whom the revocation waits for.
  func revoke(_ key: FrameBufferKey, _ reason: RevocationReason, _ revocation: FrameRevocation) {
    guard let buffer = known[key] else { return }
    // What this consumer has on its screen goes when something else is there, unless it is the
    // guest's: those pages are not revoked as unused while anybody shows them (Scene.isSeen).
    if reason == .unused, revocation.buffer.memory != .guestPages, buffer.state == .offered,
      isOnScreen(key)
    {
      known[key]?.goesWithNextFrame = true
      return
    }
    if !buffer.isOverdue, overdue == 0 {
      revocation.closers.retain()
      known[key]?.revocations.append(revocation)
    }
    if buffer.state == .offered { queueRemoval(key, reason) }
    sendRemovals()
  }

  func isOnScreen(_ key: FrameBufferKey) -> Bool { outputs.contains { $0.shown == key } }

  /// An output shows another buffer from now on, or nothing.
  func replaced(on index: Int, by new: FrameBufferKey?) {
    guard let old = outputs[index].shown, old != new else { return outputs[index].shown = new }
    outputs[index].shown = new
    guard known[old]?.goesWithNextFrame == true, known[old]?.state == .offered, !isOnScreen(old)
    else { return }
    queueRemoval(old, .unused)
  }

  func queueRemoval(_ key: FrameBufferKey, _ reason: RevocationReason) {
    known[key]?.state = .removalQueued
    known[key]?.reason = reason
    removals.append(key)
  }

  /// BUFFER_CLOSED for a revocation did not come in time: the device goes on without it.
  func expire(_ revocation: FrameRevocation) {
    let key = revocation.key
    guard let buffer = known[key], buffer.revocations.contains(where: { $0 === revocation })
    else { return }
    known[key]?.revocations.removeAll { $0 === revocation }
    expireFrames(of: key)
    server.counters.closesLate &+= 1
    guard !buffer.isOverdue, buffer.state != .closed else { return }
    known[key]?.isOverdue = true
    overdue += 1
    if overdue > Self.maxOverdue {
      server.end(
        self,
        MalformedMessage(
          code: PINHOLE_ERROR_TOO_SLOW, type: PINHOLE_BUFFER_REMOVE.rawValue,
          text: "more than \(Self.maxOverdue) BUFFER_REMOVE are not answered"))
    }
  }

  // MARK: What the consumer says

  /// - Parameter fds: the descriptors that came; those that are kept are taken out.
  func handle(_ message: ConsumerMessage, _ fds: inout [CInt]) throws(MalformedMessage) {
    switch message {
    case .hello(let hello): greet(hello)
    case .frameDone(let done): try frameDone(done, &fds)
    case .bufferClosed(let closed): try bufferClosed(closed.name)
    case .timelineAdd(let timeline): try add(timeline, &fds)
    case .timelineRemove(let timeline): try removeTimeline(Int(timeline.output))
    case .ignored: break
    }
  }

  private func greet(_ hello: ConsumerHello) {
    name = hello.name
    recipient.label = label
    isCopyOnly = isCopyOnly || hello.isCopyOnly
    isExplicit = hello.isExplicit
    var known = PINHOLE_FEATURE_ALIGNMENT | PINHOLE_FEATURE_COPY_ONLY
    // Nobody's GPU reads copies, and strangers' descriptors are not to be waited for.
    if !isCopyOnly {
      known |= PINHOLE_FEATURE_SYNC_FILE | PINHOLE_FEATURE_TIMELINE | PINHOLE_FEATURE_MODIFIERS
    }
    // Strangers share few copies.
    if isCopyOnly, !isUntrusted { known |= PINHOLE_FEATURE_POOL }
    features = hello.features & known
    if features & PINHOLE_FEATURE_ALIGNMENT != 0 {
      alignment = CopyAlignment(stride: hello.strideAlignment, height: hello.heightAlignment)
    }
    helloTimer = nil
    isGreeted = true
    server.greeted(self)
  }

  private func frameDone(
    _ done: FrameDone, _ fds: inout [CInt]
  ) throws(MalformedMessage) {
    let (output, serial) = (Int(done.output), done.serial)
    try requireTimeline(of: done)
    let frames = outputs[output].inFlight
    guard let at = frames.firstIndex(where: { $0.serial == serial }), frames[at].fence == nil else {
      throw WireFault.unexpected(
        \pinhole_frame_done.serial, of: PINHOLE_FRAME_DONE,
        "frame \(serial) of output \(output) is not in flight")
    }
    let fence = try fence(of: done.release, output, &fds)
    server.counters.framesDone &+= 1
    if let fence, waitFor(fence, output, at) { return }
    finishFrame(output, at)
  }

  /// False where a fence cannot be waited for.
  private func waitFor(_ fence: SharedFD, _ output: Int, _ at: Int) -> Bool {
    let serial = outputs[output].inFlight[at].serial
    do throws(Errno) {
      outputs[output].inFlight[at].fence = try FenceWatch(fence, on: server.loop) {
        [unowned self] in fenceSignalled(output, serial)
      }
      server.counters.fencesAwaited &+= 1
      return true
    } catch {
      server.log.warning("\(label): cannot wait for a fence: \(error)")
      return false
    }
  }

  private func fenceSignalled(_ output: Int, _ serial: UInt64) {
    guard let at = outputs[output].inFlight.firstIndex(where: { $0.serial == serial }) else {
      return
    }
    let key = outputs[output].inFlight[at].key
    finishFrame(output, at)
    finishClosing(key)
  }

  private func finishFrame(_ output: Int, _ at: Int) {
    giveBack(outputs[output].inFlight.remove(at: at))
  }

  /// Unlocks a frame, unless that was done at its deadline.
  private func giveBack(_ frame: FrameInFlight) {
    wantsMore = true
    guard !frame.isLate else { return late -= 1 }
    server.unlock(frame, by: self, leavesReaders: !isExplicit)
  }

  /// Readers that did not say so are done.
  func caughtUp() {
    late = max(0, late - 1)
    wantsMore = true
  }

  private func bufferClosed(_ key: FrameBufferKey) throws(MalformedMessage) {
    guard let buffer = known[key], buffer.state == .removalSent else {
      throw WireFault.unexpected(
        \pinhole_buffer_closed.buffer, of: PINHOLE_BUFFER_CLOSED, "buffer \(key) was not removed")
    }
    known[key]?.state = .closed
    buffer.recipients.closed(by: recipient)
    if buffer.isOverdue { overdue -= 1 }
    known[key]?.isOverdue = false
    for output in outputs.indices {
      for frame in outputs[output].inFlight where frame.key == key && frame.fence == nil {
        giveBack(frame)
      }
      outputs[output].inFlight.removeAll { $0.key == key && $0.fence == nil }
    }
    wantsMore = true
    finishClosing(key)
  }

  /// Forgets a generation that was closed, once no fence of its frames is pending.
  private func finishClosing(_ key: FrameBufferKey) {
    guard let buffer = known[key], buffer.state == .closed,
      !outputs.contains(where: { $0.inFlight.contains { $0.key == key } })
    else { return }
    known[key] = nil
    for revocation in buffer.revocations { revocation.closers.release() }
  }

  // MARK: Giving back

  /// Gives the frames of a generation back that are in flight; they are late.
  private func expireFrames(of key: FrameBufferKey) {
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices
      where outputs[output].inFlight[index].key == key {
        expireFrame(output, index)
      }
    }
  }

  private func expireFrame(_ output: Int, _ index: Int) {
    let frame = outputs[output].inFlight[index]
    guard !frame.isLate else { return }
    outputs[output].inFlight[index].isLate = true
    outputs[output].inFlight[index].buffer = nil
    late += 1
    counted.late &+= 1
    server.unlock(frame, by: self, leavesReaders: true)
  }

  /// The guest does not wait any longer for frames with a lock: they are late.
  func expireFrames(of lock: Hold) {
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices
      where outputs[output].inFlight[index].lock === lock && !outputs[output].inFlight[index].isLate
      {
        server.counters.framesLate &+= 1
        expireFrame(output, index)
      }
    }
  }

  /// Gives frames back whose time is over.
  ///
  /// - Returns: when the time of the next one is over, `.max` if there is none.
  func releaseFrames(dueBefore now: UInt64) -> UInt64 {
    var next = UInt64.max
    var timedOut: [FrameBufferKey] = []
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices {
        let frame = outputs[output].inFlight[index]
        guard !frame.isLate else { continue }
        // Who passes copies on keeps them for as long as nobody lacks one.
        if isPooling, frame.buffer?.isOriginal == false, !server.isShortOfCopies { continue }
        if frame.due <= now {
          if let buffer = frame.buffer, !buffer.isOriginal {
            server.counters.copiesLate &+= 1
            timedOut.append(frame.key)
          } else {
            server.counters.framesLate &+= 1
          }
          expireFrame(output, index)
        } else {
          next = min(next, frame.due)
        }
      }
    }
    takeBack(timedOut)
    return next
  }

  /// Takes copies from a stranger who did not answer in time; others are shown new pictures in
  /// them.
  private func takeBack(_ keys: [FrameBufferKey]) {
    guard isUntrusted, !keys.isEmpty else { return }
    for key in keys where known[key]?.state == .offered { queueRemoval(key, .timeout) }
    wantsMore = true
  }

  /// Gives back what strangers have read since before a time.
  func releaseCopies(sentBefore time: UInt64) {
    guard isUntrusted else { return }
    var timedOut: [FrameBufferKey] = []
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices {
        let frame = outputs[output].inFlight[index]
        guard !frame.isLate, frame.buffer?.isOriginal == false,
          frame.due &- server.copyDeadline <= time
        else { continue }
        server.counters.copiesLate &+= 1
        expireFrame(output, index)
        timedOut.append(frame.key)
      }
    }
    takeBack(timedOut)
  }

  /// Gives everything back: the connection has ended.
  func releaseAll() {
    let frames = outputs.flatMap { $0.inFlight.filter { !$0.isLate } }
    for index in outputs.indices { outputs[index] = FrameClientOutput() }
    for frame in frames { server.unlock(frame, by: self, leavesReaders: true) }
    for buffer in known.values {
      for revocation in buffer.revocations { revocation.closers.release() }
    }
    known = [:]
    removals = []
    late = 0
    overdue = 0
  }
}
