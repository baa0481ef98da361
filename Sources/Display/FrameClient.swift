import Buffers
import Fences
import FrameWire
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

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
  /// A frame is ready, but others hold all copies.
  var waitsForCopy = false
  var isFlushing = false
  var hasMoreToFlush = false
  var outputs = [FrameClientOutput](
    repeating: FrameClientOutput(), count: Int(PINHOLE_MAX_OUTPUTS))

  init(_ socket: consuming OwnedFD, peer: UnixSocket.Peer, server: FrameServer) {
    self.socket = SharedFD(socket)
    self.peer = peer
    self.server = server
    for index in outputs.indices { outputs[index].inFlight.reserveCapacity(4) }
  }

  /// How logs call it.
  var label: String { "frame consumer \"\(name)\" (process \(peer.pid))" }

  // MARK: What the device says

  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    guard outputs.indices.contains(index) else { return }
    outputs[index].size = size
    outputs[index].sizeIsNews = true
    outputs[index].pending = nil
    outputs[index].needsFull = true
    flush()
  }

  /// - Parameter acquire: the frame's fence, if it has not signalled.
  func present(_ frame: Frame, acquire: SharedFD?, timestamp: UInt64) {
    let index = frame.output
    guard outputs.indices.contains(index) else { return }
    if outputs[index].pending != nil {
      outputs[index].hasSkipped = true
      server.counters.dropped &+= 1
    }
    outputs[index].damage.add(frame.damage)
    outputs[index].pending = PendingFrame(
      buffer: frame.buffer, crop: frame.bufferCrop, hold: frame.hold, copies: frame.copies,
      acquire: acquire, timestamp: timestamp, whyCopied: frame.whyCopied)
    flush()
    // A consumer that is behind does not hold the guest; one that waits for a fence may.
    if acquire == nil || takesFences { outputs[index].pending?.hold = nil }
  }

  /// A frame's fence has signalled.
  func acquired(_ fence: SharedFD) {
    for index in outputs.indices where outputs[index].pending?.acquire === fence {
      outputs[index].pending?.acquire = nil
    }
    flush()
    for index in outputs.indices where outputs[index].pending?.acquire == nil {
      outputs[index].pending?.hold = nil
    }
  }

  func cursor(_ state: CursorState) {
    guard outputs.indices.contains(state.output) else { return }
    outputs[state.output].cursor = state
    outputs[state.output].cursorIsNews = true
    flush()
  }

  /// Takes a generation back; adds itself to those whom the withdrawal waits for.
  func withdraw(_ key: FrameBufferKey, _ reason: WithdrawReason, _ withdrawal: FrameWithdrawal) {
    for index in outputs.indices where outputs[index].pending?.shows(key) == true {
      outputs[index].pending = nil
      outputs[index].needsFull = true
      outputs[index].hasSkipped = true
    }
    guard let buffer = known[key] else { return }
    if !buffer.isOverdue, overdue == 0 {
      withdrawal.waiting += 1
      known[key]?.withdrawals.append(withdrawal)
    }
    if buffer.state == .offered { queueRemoval(key, reason) }
    flush()
  }

  func queueRemoval(_ key: FrameBufferKey, _ reason: WithdrawReason) {
    known[key]?.state = .removalQueued
    known[key]?.reason = reason
    removals.append(key)
  }

  /// BUFFER_CLOSED for a withdrawal did not come in time: the device goes on without it.
  func expire(_ withdrawal: FrameWithdrawal) {
    let key = withdrawal.key
    guard let buffer = known[key], buffer.withdrawals.contains(where: { $0 === withdrawal })
    else { return }
    known[key]?.withdrawals.removeAll { $0 === withdrawal }
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
  func handle(_ request: FrameRequest, _ fds: inout [CInt]) throws(MalformedMessage) {
    switch request {
    case .hello(let hello):
      guard !isGreeted else {
        throw MalformedMessage(
          code: PINHOLE_ERROR_UNEXPECTED, type: PINHOLE_CONSUMER_HELLO.rawValue,
          text: "CONSUMER_HELLO came twice")
      }
      greet(hello)
    case .frameDone(let output, let serial, let release):
      try requireGreeting(PINHOLE_FRAME_DONE)
      try frameDone(output, serial, release, &fds)
    case .bufferClosed(let key):
      try requireGreeting(PINHOLE_BUFFER_CLOSED)
      try bufferClosed(key)
    case .timelineAdd(let timeline):
      try requireGreeting(PINHOLE_TIMELINE_ADD)
      try add(timeline, &fds)
    case .timelineRemove(let output):
      try requireGreeting(PINHOLE_TIMELINE_REMOVE)
      try removeTimeline(output)
    case .ignored: break
    }
  }

  private func requireGreeting(_ type: pinhole_message) throws(MalformedMessage) {
    guard !isGreeted else { return }
    throw MalformedMessage(
      code: PINHOLE_ERROR_UNEXPECTED, type: type.rawValue, field: 0,
      text: "CONSUMER_HELLO comes first")
  }

  private func greet(_ hello: FrameHello) {
    name = hello.name
    alignment = hello.alignment
    isCopyOnly = isCopyOnly || hello.isCopyOnly
    isExplicit = hello.isExplicit
    var known = PINHOLE_FEATURE_ALIGNMENT | PINHOLE_FEATURE_COPY_ONLY
    // Nobody's GPU reads copies, and strangers' descriptors are not to be waited for.
    if !isCopyOnly { known |= PINHOLE_FEATURE_SYNC_FILE | PINHOLE_FEATURE_TIMELINE }
    features = hello.features & known
    helloTimer = nil
    isGreeted = true
    server.greeted(self)
  }

  private func frameDone(
    _ output: Int, _ serial: UInt64, _ release: FrameRelease, _ fds: inout [CInt]
  ) throws(MalformedMessage) {
    try requireAgreement(on: release, output)
    let frames = outputs[output].inFlight
    guard let at = frames.firstIndex(where: { $0.serial == serial }), frames[at].fence == nil else {
      throw WireFault.unexpected(
        \pinhole_frame_done.serial, of: PINHOLE_FRAME_DONE,
        "frame \(serial) of output \(output) is not in flight")
    }
    let fence = try fence(of: release, output, &fds)
    server.counters.framesDone &+= 1
    if let fence, waitFor(fence, output, at) { return }
    finishFrame(output, at)
    flush()
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
    let server = self.server
    if let at = outputs[output].inFlight.firstIndex(where: { $0.serial == serial }) {
      let key = outputs[output].inFlight[at].key
      finishFrame(output, at)
      finishClosing(key)
      flush()
    }
    server.settle()
  }

  private func finishFrame(_ output: Int, _ at: Int) {
    let frame = outputs[output].inFlight.remove(at: at)
    giveBack(frame.ticket)
  }

  /// Gives a frame's share back; one that has none was late.
  private func giveBack(_ ticket: FrameTicket?) {
    guard let ticket else { return late -= 1 }
    ticket.last = self
    if !isExplicit { ticket.mayHaveReaders = true }
    server.releases.add(ticket)
  }

  /// Readers that did not say so are done.
  func caughtUp() {
    late = max(0, late - 1)
    flush()
  }

  private func bufferClosed(_ key: FrameBufferKey) throws(MalformedMessage) {
    guard let buffer = known[key], buffer.state == .removalSent else {
      throw WireFault.unexpected(
        \pinhole_buffer_closed.buffer, of: PINHOLE_BUFFER_CLOSED, "buffer \(key) was not removed")
    }
    known[key]?.state = .closed
    if buffer.isOverdue { overdue -= 1 }
    known[key]?.isOverdue = false
    for output in outputs.indices {
      for frame in outputs[output].inFlight where frame.key == key && frame.fence == nil {
        giveBack(frame.ticket)
      }
      outputs[output].inFlight.removeAll { $0.key == key && $0.fence == nil }
    }
    finishClosing(key)
    flush()
  }

  /// Forgets a generation that was closed, once no fence of its frames is pending.
  private func finishClosing(_ key: FrameBufferKey) {
    guard let buffer = known[key], buffer.state == .closed,
      !outputs.contains(where: { $0.inFlight.contains { $0.key == key } })
    else { return }
    known[key] = nil
    for withdrawal in buffer.withdrawals { server.answered(withdrawal) }
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
    guard let ticket = outputs[output].inFlight[index].ticket else { return }
    ticket.mayHaveReaders = true
    server.releases.add(ticket)
    outputs[output].inFlight[index].ticket = nil
    late += 1
  }

  /// Gives frames back whose time is over.
  ///
  /// - Returns: when the time of the next one is over, `.max` if there is none.
  func releaseFrames(dueBefore now: UInt64) -> UInt64 {
    var next = UInt64.max
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices {
        let frame = outputs[output].inFlight[index]
        guard frame.ticket != nil else { continue }
        if frame.due <= now {
          if frame.ticket?.buffer?.memory == .copy {
            server.counters.copiesLate &+= 1
          } else {
            server.counters.framesLate &+= 1
          }
          expireFrame(output, index)
        } else {
          next = min(next, frame.due)
        }
      }
    }
    return next
  }

  /// Forgets all outputs; what their frames in flight keep is the caller's to give back.
  func takeTickets() -> [FrameTicket] {
    let tickets = outputs.flatMap { $0.inFlight.compactMap(\.ticket) }
    for index in outputs.indices { outputs[index] = FrameClientOutput() }
    return tickets
  }

  /// Gives everything back: the connection has ended.
  func releaseAll() {
    for ticket in takeTickets() {
      ticket.mayHaveReaders = true
      server.releases.add(ticket)
    }
    for buffer in known.values {
      for withdrawal in buffer.withdrawals { server.answered(withdrawal) }
    }
    known = [:]
    removals = []
    late = 0
    overdue = 0
  }
}
