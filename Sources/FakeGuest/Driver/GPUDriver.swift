import CLinux
import Linux

/// A virtio-gpu driver over any transport: commands in, answers out.
///
/// One thread uses it. ``perform(_:)`` waits for each answer; ``send(_:_:)`` pipelines.
package final class GPUDriver {
  /// What the device answered to one command.
  package struct Completion: Sendable {
    /// Type word of the answer; zero if the device wrote nothing.
    package let response: GPUResponse
    /// `flags` of the header.
    package let flags: UInt32
    /// `fence_id` of the header.
    package let fence: UInt64
    /// `ctx_id` of the header.
    package let context: UInt32
    /// `ring_idx` of the header.
    package let ring: UInt8
    /// Bytes that the device says it wrote.
    package let length: Int
    /// The response area, header first.
    package let bytes: [UInt8]
    /// The header says that a fence was answered.
    package var isFenced: Bool { flags & UInt32(VIRTIO_GPU_FLAG_FENCE) != 0 }

    /// A little-endian word of the response, zero past its end.
    package func u32(_ offset: Int) -> UInt32 {
      guard offset + 4 <= bytes.count else { return 0 }
      return (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << (8 * UInt32($1)) }
    }
  }

  private struct Pending {
    let name: String
    let memory: GuestPages
    let isSlot: Bool
    let responseAddress: UInt64
    let responseSize: Int
    let done: (Completion) -> Void
  }

  /// How rings are laid out.
  package struct Options: Sendable {
    /// Descriptors of the control queue; QEMU's devices have 64.
    package var controlSize: UInt16 = 64
    /// Descriptors of the cursor queue.
    package var cursorSize: UInt16 = 16
    /// Features the driver takes if they are offered.
    package var features = Feature.all
    /// Milliseconds until a missing answer is an error.
    package var patience = 10_000
    /// A driver as Linux's is.
    package init() {}
  }

  /// The way to the device.
  package let transport: any DeviceTransport
  /// The guest's memory.
  package let ram: GuestRAM
  /// What driver and device agreed on.
  package let features: UInt64
  /// Whether more answers come than commands go is nobody's business: each is counted once.
  package private(set) var completed = 0
  private let options: Options
  private var rings: [SplitRing]
  private var pending: [[UInt16: Pending]] = [[:], [:]]
  private var slots: [GuestPages] = []
  private var dirty = [false, false]

  /// Negotiates, builds the rings and starts the device.
  package init(_ transport: any DeviceTransport, _ options: Options = .init()) throws(GuestError) {
    self.transport = transport
    self.options = options
    ram = transport.ram
    let offered = try transport.deviceFeatures()
    guard offered & Feature.version1 != 0 else {
      throw .unsupported("the device does not offer VIRTIO_F_VERSION_1")
    }
    features = offered & options.features
    rings = []
    try startRings()
  }

  private func startRings() throws(GuestError) {
    rings = []
    for size in [options.controlSize, options.cursorSize] {
      rings.append(
        try SplitRing(
          ram, size: size, indirect: features & Feature.indirect != 0,
          eventIndex: features & Feature.eventIndex != 0))
    }
    try transport.start(features: features, queues: rings)
  }

  /// Resets the device and starts it again with fresh rings, as a reboot does.
  package func restart() throws(GuestError) {
    try transport.reset()
    for queue in pending.indices {
      for lost in pending[queue].values { release(lost) }
      pending[queue] = [:]
    }
    dirty = [false, false]
    try startRings()
  }

  /// The ring of a queue, for drivers that misbehave.
  package func ring(_ queue: GPUCommand.Queue) -> SplitRing { rings[queue.rawValue] }

  /// Commands that the device has not answered.
  package var inFlight: Int { pending[0].count + pending[1].count }

  /// Runs one command and returns whatever the device answers.
  @discardableResult
  package func run(_ command: GPUCommand) throws(GuestError) -> Completion {
    var answer: Completion?
    try send(command) { answer = $0 }
    try wait(for: command.name) { answer != nil }
    guard let answer else { throw .timedOut(command.name) }
    return answer
  }

  /// Runs one command that must succeed.
  @discardableResult
  package func perform(_ command: GPUCommand) throws(GuestError) -> Completion {
    let answer = try run(command)
    guard answer.response.isOK else { throw .refused(command.name, answer.response) }
    return answer
  }

  /// Runs commands that must succeed, shown to the device at once.
  package func perform(together commands: [GPUCommand]) throws(GuestError) {
    var refusal: GuestError?
    var left = commands.count
    for command in commands {
      try send(command) { answer in
        left -= 1
        if !answer.response.isOK { refusal = refusal ?? .refused(command.name, answer.response) }
      }
    }
    try wait(for: commands.last?.name ?? "nothing") { left == 0 }
    if let refusal { throw refusal }
  }

  /// Puts a command on its ring; ``kick()`` or any waiting call shows it to the device.
  ///
  /// A full ring is drained first.
  package func send(
    _ command: GPUCommand, _ done: @escaping (Completion) -> Void = { _ in }
  ) throws(GuestError) {
    let queue = command.queue.rawValue
    let pieces = max(1, min(command.pieces, max(command.bytes.count, 1)))
    try wait(for: "room for \(command.name)") { [ring = rings[queue]] in ring.fits(pieces + 1) }
    let memory = try memory(for: command)
    let request = memory.start
    let response = request + UInt64((command.bytes.count + 7) & ~7)
    let head = try rings[queue].add(chain(command, pieces, request, response))
    pending[queue][head] = Pending(
      name: command.name, memory: memory, isSlot: memory.addresses.count == 1,
      responseAddress: response, responseSize: command.responseSize, done: done)
    dirty[queue] = true
  }

  private func chain(
    _ command: GPUCommand, _ pieces: Int, _ request: UInt64, _ response: UInt64
  ) -> [SplitRing.Segment] {
    var chain: [SplitRing.Segment] = []
    let count = command.bytes.count
    for i in 0..<pieces where count > 0 {
      let from = count * i / pieces
      let to = count * (i + 1) / pieces
      chain.append(.init(request + UInt64(from), UInt32(to - from)))
    }
    if command.responseSize > 0 {
      chain.append(.init(response, UInt32(command.responseSize), deviceWrites: true))
    }
    return chain
  }

  /// Guest pages that hold the request and, after it, room for the response.
  private func memory(for command: GPUCommand) throws(GuestError) -> GuestPages {
    let need = ((command.bytes.count + 7) & ~7) + command.responseSize
    let memory: GuestPages
    if need <= 4096, let slot = slots.popLast() {
      memory = slot
    } else {
      memory = try ram.allocate(bytes: need)
    }
    ram.write(command.bytes, to: memory)
    ram.write(
      [UInt8](repeating: 0, count: command.responseSize), to: memory,
      at: (command.bytes.count + 7) & ~7)
    return memory
  }

  private func release(_ pending: Pending) {
    if pending.isSlot { slots.append(pending.memory) } else { ram.free(pending.memory) }
  }

  /// Shows the device what was sent, and kicks it where it asks for that.
  package func kick() throws(GuestError) {
    for queue in rings.indices where dirty[queue] {
      dirty[queue] = false
      if rings[queue].publish() { try transport.kick(queue) }
    }
  }

  /// Takes every answer that is there and runs its completion.
  ///
  /// - Returns: how many there were.
  @discardableResult
  package func poll() throws(GuestError) -> Int {
    var count = 0
    for queue in rings.indices {
      while let used = try rings[queue].reap() {
        guard let pending = pending[queue].removeValue(forKey: used.head) else { continue }
        let answer = completion(of: pending, used.length)
        release(pending)
        completed += 1
        count += 1
        pending.done(answer)
      }
    }
    return count
  }

  private func completion(of pending: Pending, _ length: UInt32) -> Completion {
    let offset = Int(pending.responseAddress - pending.memory.start)
    let bytes = ram.read(pending.memory, at: offset, count: pending.responseSize)
    var header = virtio_gpu_ctrl_hdr()
    withUnsafeMutableBytes(of: &header) { $0.copyBytes(from: bytes.prefix($0.count)) }
    return Completion(
      response: GPUResponse(rawValue: header.type), flags: header.flags,
      fence: header.fence_id, context: header.ctx_id, ring: header.ring_idx,
      length: Int(length), bytes: bytes)
  }

  /// Kicks, then reaps answers until a condition holds.
  ///
  /// - Throws: ``GuestError/timedOut(_:)`` after the driver's patience.
  package func wait(
    for what: String, milliseconds: Int? = nil, _ condition: () -> Bool
  ) throws(GuestError) {
    if condition() { return }
    try kick()
    let deadline = Clock.now + UInt64(milliseconds ?? options.patience) * 1_000_000
    while true {
      try poll()
      if condition() { return }
      try kick()
      let idle = rings.allSatisfy { $0.armCall() }
      guard idle else { continue }
      let now = Clock.now
      guard now < deadline else { throw .timedOut(what) }
      let queue = pending[0].isEmpty && !pending[1].isEmpty ? 1 : 0
      let left = Int((deadline - now) / 1_000_000) + 1
      try transport.waitForCall(queue, milliseconds: pending[1].isEmpty ? left : min(left, 5))
    }
  }

  /// Waits until every command was answered.
  package func drain() throws(GuestError) {
    try wait(for: "outstanding commands") { self.inFlight == 0 }
  }
}
