import CLinux
import GuestMemory
import Linux
import VhostUser
import Virtqueue

/// A front-end that says anything, to a real session with a device that keeps requests.
enum VhostUserTarget {
  /// What the bytes of an input mean.
  enum Step: UInt8, CaseIterable {
    /// Request, flags, gifts, payload.
    case message
    /// Gifts, bytes as they are.
    case raw
    case turnAndRead
    case turn
    case kick
    /// Offset / 4 in guest memory, bytes.
    case write
    case answer
    case leave
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    Stock.clean(0x10000)
    let loop = try EventLoop()
    let memory = GuestMemory()
    let device = KeepingDevice()
    var ends = 0
    let (peer, far) = try sockets(.stream)
    let session = try VhostUserSession(
      OwnedFD(adopting: far), device: device, memory: memory, loop: loop, logger: Stock.log
    ) { _ in ends += 1 }
    session.displaySocketArrived = { fd in _ = consume fd }
    for _ in 0..<128 where !input.isEmpty {
      try step(&input, peer, loop, device)
      claim(session.isOpen == (ends == 0), "the session's end was told \(ends) times")
    }
    peer.close()
    for _ in 0..<64 where session.isOpen { try loop.turn(timeout: 0) }
    session.close()
    claim(ends == 1, "the session's end was told \(ends) times")
    claim(memory.entries.isEmpty, "guest memory outlives the session")
    device.checkEnd()
  }

  private static func step(
    _ input: inout Input, _ peer: Peer, _ loop: EventLoop, _ device: KeepingDevice
  ) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .message:
      let request = input.u8()
      let flags = input.u8()
      let gifts = Peer.gifts(&input)
      let payload = input.take(Int(input.u16()))
      let size = flags & 0x80 == 0 ? UInt32(payload.count) : input.u32()
      var script = Script()
      script.put(UInt32(request))
      script.put(UInt32(flags & 0x7f))
      script.put(size)
      try peer.send(script.bytes + payload, gifts: gifts)
      try loop.turn(timeout: 0)
    case .raw:
      let gifts = Peer.gifts(&input)
      try peer.send(input.take(Int(input.u16())), gifts: gifts)
    case .turnAndRead:
      for _ in 0..<(input.u8() & 7) { try loop.turn(timeout: 0) }
      while let (bytes, fds) = peer.receive() {
        claim(!bytes.isEmpty && fds == 0, "a session sends no descriptors")
      }
    case .turn: for _ in 0..<(input.u8() & 7) { try loop.turn(timeout: 0) }
    case .kick:
      _ = ph_eventfd_signal(Stock.events[Int(input.u8() & 3)])
      try loop.turn(timeout: 0)
    case .write:
      let offset = Int(input.u16()) * 4 % 0x10000
      Stock.write(Array(input.take(Int(input.u8())).prefix(0x10000 - offset)), at: offset)
    case .answer: device.act(input.u8())
    case .leave, nil: if input.flag() { peer.close() } else { peer.shutWriting() }
    }
  }
}

/// A socket pair: our end, and the other, which somebody must adopt.
func sockets(_ kind: UnixSocket.Kind) throws(Errno) -> (Peer, CInt) {
  let pair = try UnixSocket.Pair(kind)
  var ends: (CInt, CInt) = (-1, -1)
  pair.split { ends = ($0.release(), $1.release()) }
  return (Peer(OwnedFD(adopting: ends.0)), ends.1)
}

/// A device that answers some requests at once, keeps others, and watches its own life.
final class KeepingDevice: VirtioDevice {
  let deviceFeatures: UInt64 = 1 << 1
  let queueCount = 2
  let maxQueueSize: UInt16 = 1024
  private var queues: [VirtioQueue?] = [nil, nil]
  private var kept: [(VirtioQueue, DescriptorChain)] = []
  private var keeps = false
  private var isConnected = true
  private var config = [UInt8](repeating: 7, count: 64)

  func checkEnd() {
    claim(!isConnected, "the device was not told of the end")
    claim(queues.allSatisfy { $0 == nil }, "a queue was not stopped")
  }

  func act(_ byte: UInt8) {
    switch byte & 7 {
    case 0: keeps.toggle()
    case 1: pushKept()
    case 2: for queue in queues { queue?.notifyGuest() }
    case 3: queues[Int(byte >> 3) & 1]?.kickAgain()
    case 4:
      guard let (queue, chain) = kept.first else { return }
      // Twice: the second must be ignored.
      queue.push(chain, written: 8)
      queue.push(chain, written: 8)
      kept.removeFirst()
    default: for queue in queues { queue?.notifyIfWanted() }
    }
  }

  private func pushKept() {
    for (queue, chain) in kept { queue.push(chain, written: UInt32(clamping: chain.writableCount)) }
    kept = []
  }

  func featuresNegotiated(_ features: UInt64) {}
  func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    let end = Int(offset) + Int(count)
    return end <= config.count ? Array(config[Int(offset)..<end]) : nil
  }
  func writeConfig(offset: UInt32, bytes: [UInt8]) {
    for (index, byte) in bytes.enumerated() where Int(offset) + index < config.count {
      config[Int(offset) + index] = byte
    }
  }
  func queueStarted(_ index: Int, _ queue: VirtioQueue) {
    claim(queues[index] == nil && isConnected, "queue \(index) is started while it runs")
    queues[index] = queue
  }
  func queueStopped(_ index: Int) {
    claim(queues[index] != nil, "queue \(index) is stopped while it does not run")
    for (queue, chain) in kept where queue.index == index { queue.push(chain, written: 0) }
    kept.removeAll { $0.0.index == index }
    claim(queues[index]?.ring.inFlight == 0, "requests in flight were not counted right")
    queues[index] = nil
  }
  func queueKicked(_ index: Int) {
    guard let queue = queues[index] else {
      return claim(false, "queue \(index) is kicked while it does not run")
    }
    var left = 4096
    repeat {
      queue.ring.disableNotifications()
      while left > 0, let chain = queue.pop() {
        left -= 1
        if keeps { kept.append((queue, chain)) } else { answer(chain, queue) }
      }
    } while left > 0 && queue.ring.enableNotifications()
    queue.notifyIfWanted()
  }
  private func answer(_ chain: DescriptorChain, _ queue: VirtioQueue) {
    var bytes = [UInt8](repeating: 0, count: min(chain.readableCount, 256))
    let got = bytes.withUnsafeMutableBytes { chain.read(into: $0) }
    claim(got == bytes.count, "\(got) of \(bytes.count) bytes could be read")
    let written = bytes.withUnsafeBytes { chain.write($0) }
    claim(written <= chain.writableCount, "more was written than there is room for")
    queue.push(chain, written: UInt32(written))
  }
  func deviceReset() { claim(queues.allSatisfy { $0 == nil }, "reset while a queue runs") }
  func disconnected() {
    claim(isConnected, "the device was told twice of the end")
    isConnected = false
  }
}
