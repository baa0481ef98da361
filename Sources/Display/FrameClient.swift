import Buffers
import FrameWire
import Linux
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
  var isGreeted = false
  var isGone = false
  /// The socket is full; it is watched for room.
  var isBlocked = false
  var known: [FrameBufferKey: KnownBuffer] = [:]
  /// Keys whose removal is queued, oldest first.
  var removals: [FrameBufferKey] = []
  /// Removals past their deadline.
  var overdue = 0
  /// Frames in flight past their deadline.
  var late = 0
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

  func present(_ frame: Frame, _ buffer: OfferedBuffer, timestamp: UInt64) {
    let index = frame.output
    guard outputs.indices.contains(index) else { return }
    if outputs[index].pending != nil {
      outputs[index].hasSkipped = true
      server.counters.dropped &+= 1
    }
    outputs[index].damage = outputs[index].damage.union(frame.damage)
    outputs[index].pending = PendingFrame(
      buffer: buffer, key: FrameBufferKey(id: buffer.id, generation: buffer.generation),
      crop: frame.bufferCrop, hold: frame.hold, timestamp: timestamp)
    flush()
    // A consumer that is behind does not hold the guest.
    outputs[index].pending?.hold = nil
  }

  func cursor(_ state: CursorState) {
    guard outputs.indices.contains(state.output) else { return }
    outputs[state.output].cursor = state
    outputs[state.output].cursorIsNews = true
    flush()
  }

  /// Takes a generation back; adds itself to those whom the withdrawal waits for.
  func withdraw(_ key: FrameBufferKey, _ reason: WithdrawReason, _ withdrawal: FrameWithdrawal) {
    for index in outputs.indices where outputs[index].pending?.key == key {
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
    releaseFrames(of: key, forget: false)
    server.counters.closesLate &+= 1
    guard !buffer.isOverdue else { return }
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

  func handle(_ request: FrameRequest) throws(MalformedMessage) {
    switch request {
    case .hello(let hello):
      guard !isGreeted else {
        throw MalformedMessage(
          code: PINHOLE_ERROR_UNEXPECTED, type: PINHOLE_CONSUMER_HELLO.rawValue,
          text: "CONSUMER_HELLO came twice")
      }
      greet(hello)
    case .frameDone(let output, let serial):
      try requireGreeting(PINHOLE_FRAME_DONE)
      try frameDone(output, serial)
    case .bufferClosed(let key):
      try requireGreeting(PINHOLE_BUFFER_CLOSED)
      try bufferClosed(key)
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
    helloTimer = nil
    isGreeted = true
    server.greeted(self)
  }

  private func frameDone(_ output: Int, _ serial: UInt64) throws(MalformedMessage) {
    guard let at = outputs[output].inFlight.firstIndex(where: { $0.serial == serial }) else {
      throw MalformedMessage(
        code: PINHOLE_ERROR_UNEXPECTED, type: PINHOLE_FRAME_DONE.rawValue,
        field: UInt32(MemoryLayout<pinhole_frame_done>.offset(of: \.serial) ?? 0),
        text: "frame \(serial) of output \(output) is not in flight")
    }
    let frame = outputs[output].inFlight.remove(at: at)
    if frame.share == nil { late -= 1 }
    server.counters.framesDone &+= 1
    server.releases.add(frame.share)
    flush()
  }

  private func bufferClosed(_ key: FrameBufferKey) throws(MalformedMessage) {
    guard let buffer = known[key], buffer.state == .removalSent else {
      throw MalformedMessage(
        code: PINHOLE_ERROR_UNEXPECTED, type: PINHOLE_BUFFER_CLOSED.rawValue,
        field: UInt32(MemoryLayout<pinhole_buffer_closed>.offset(of: \.buffer) ?? 0),
        text: "buffer \(key) was not removed")
    }
    known[key] = nil
    if buffer.isOverdue { overdue -= 1 }
    releaseFrames(of: key, forget: true)
    for withdrawal in buffer.withdrawals { server.answered(withdrawal) }
    flush()
  }

  // MARK: Giving back

  /// Gives the frames of a generation back, and forgets that they are in flight if asked to.
  private func releaseFrames(of key: FrameBufferKey, forget: Bool) {
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices
      where outputs[output].inFlight[index].key == key {
        if let share = outputs[output].inFlight[index].share {
          server.releases.add(share)
          outputs[output].inFlight[index].share = nil
          late += 1
        }
      }
      guard forget else { continue }
      let before = outputs[output].inFlight.count
      outputs[output].inFlight.removeAll { $0.key == key }
      late -= before - outputs[output].inFlight.count
    }
  }

  /// Gives frames back that were sent before `limit`.
  ///
  /// - Returns: when the oldest frame was sent that is still in time, nil if there is none.
  func releaseFrames(sentBefore limit: UInt64) -> UInt64? {
    var oldest: UInt64?
    for output in outputs.indices {
      for index in outputs[output].inFlight.indices {
        let frame = outputs[output].inFlight[index]
        guard let share = frame.share else { continue }
        if frame.sent <= limit {
          server.releases.add(share)
          outputs[output].inFlight[index].share = nil
          late += 1
          server.counters.framesLate &+= 1
        } else {
          oldest = min(oldest ?? .max, frame.sent)
        }
      }
    }
    return oldest
  }

  /// Forgets all outputs; what their frames in flight keep is the caller's to give back.
  func takeShares() -> [FrameShare] {
    let shares = outputs.flatMap { $0.inFlight.compactMap(\.share) }
    for index in outputs.indices { outputs[index] = FrameClientOutput() }
    return shares
  }

  /// Gives everything back: the connection has ended.
  func releaseAll() {
    for share in takeShares() { server.releases.add(share) }
    for buffer in known.values {
      for withdrawal in buffer.withdrawals { server.answered(withdrawal) }
    }
    known = [:]
    removals = []
    late = 0
    overdue = 0
  }
}
