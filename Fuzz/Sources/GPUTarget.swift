import Buffers
import CLinux
import Fences
import GuestMemory
import Linux
import Scene
import VhostUser
import VirtioGPU
import Virtqueue

/// A guest's commands to the real device behind a real session, with a sink that holds frames.
enum GPUTarget {
  /// What the bytes of an input mean; the commands are those of ``GPUScript``.
  enum Step: UInt8, CaseIterable {
    /// Queue and flags, then a command.
    case command
    /// The same, but the loop does not turn: several requests at once.
    case queued
    /// A request as it comes: length, bytes.
    case raw
    case turn
    case release
    case expire
    case demand
    case replay
    case fill
    case restartRing
    case reset
    case memory
    case stopAndGo
    /// Somebody discards pages: first page, how many.
    case punch
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    Stock.clean(GPUBench.Place.pages)
    let bench = try GPUBench(mode: input.u8())
    try bench.connect()
    for _ in 0..<200 where !input.isEmpty { try step(&input, bench) }
    try bench.finish()
  }

  private static func step(_ input: inout Input, _ bench: GPUBench) throws {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .command:
      let kind = input.u8()
      bench.offer(GPUScript.read(kind, &input), queue: kind >= 0xf0 ? 1 : 0)
      try bench.turn()
    case .queued:
      let kind = input.u8()
      bench.offer(GPUScript.read(kind, &input), queue: kind >= 0xf0 ? 1 : 0)
    case .raw:
      let flags = input.u8()
      bench.offer(
        input.take(Int(input.u8())), queue: Int(flags & 1), room: UInt32(flags >> 1) * 8)
      try bench.turn()
    case .turn: try bench.turn()
    case .release: bench.sink.release(Int(input.u8()))
    case .expire: bench.holds.expireAll()
    case .demand: bench.setDemand(input.flag())
    case .replay: bench.sink.lookAgain()
    case .fill:
      let place = GPUBench.Place.pages + Int(input.u16()) * 14
      Stock.write(input.take(Int(input.u8())), at: place)
    case .restartRing: try bench.restart(queue: UInt32(input.u8() & 1))
    case .reset: try bench.resetDevice()
    case .memory: try bench.shareMemory(all: input.flag())
    case .punch:
      let first = UInt64(GPUBench.Place.pages) + UInt64(input.u8() % 224) * 4096
      let count = min(UInt64(input.u8() & 31) * 4096, UInt64(Stock.guestSize) - first)
      try MemFD.punchHole(Stock.guest, offset: first, count: max(count, 4096))
    case .stopAndGo, nil:
      for queue in 0..<2 as Range<UInt32> { try bench.stop(queue) }
      try bench.start()
    }
  }
}

/// The device, its session, and a driver with two rings of sixteen requests.
final class GPUBench {
  /// Where things lie in guest memory.
  enum Place {
    static let user: UInt64 = 0x7f00_0000_0000
    static let queue = 0x4000
    static let descriptors = 0
    static let available = 0x1000
    static let used = 0x2000
    static let slots = 0x8000
    static let slotSize = 0x800
    /// Resources live from here to the end.
    static let pages = 0x20000
    /// The last part is a region of its own, which can be taken away.
    static let split = 0xc0000
  }
  private static let ringSize: UInt16 = 16

  let loop: EventLoop
  let device: GPUDevice
  let holds: HoldQueue
  let sink: HoldingSink
  private let memory = GuestMemory()
  private let store: BufferStore
  private var session: VhostUserSession?
  private let peer: Peer
  private var offered: [UInt16] = [0, 0]
  private var ended = false

  init(mode: UInt8, renderer: (any Renderer)? = nil) throws {
    loop = try EventLoop()
    let log = Stock.log
    store = BufferStore(
      device: mode & 0x20 == 0 ? Stock.udmabuf : .failure(.noDevice), keeper: Stock.keeper, log: log
    )
    store.pinBudget = 1 << 19
    var configuration = GPUConfiguration()
    configuration.mode = [.auto, .direct, .copy][Int(mode) % 3]
    configuration.outputs = 2
    configuration.hostMemory = 2 << 20
    configuration.maxResources = 16
    configuration.maxEntries = 64
    configuration.maxDimension = 512
    configuration.maxContexts = 8
    configuration.maxSubmit = 4096
    configuration.renderMemory = 64 << 20
    // While pages are exported every turn of the loop looks at them.
    configuration.scanInterval = 1
    holds = HoldQueue(on: loop, deadline: 3_600_000_000_000)
    device = GPUDevice(
      configuration, memory: memory, store: store, holds: holds, on: loop, log: log)
    device.renderer = renderer
    sink = HoldingSink(device.scene)
    sink.wantsBuffers = mode & 0x80 == 0
    sink.holds = mode & 0x40 == 0
    device.scene.add(sink)
    let (near, far) = try sockets(.stream)
    peer = near
    session = try VhostUserSession(
      OwnedFD(adopting: far), device: device, memory: memory, loop: loop, logger: log
    ) { [unowned self] _ in ended = true }
  }

  func turn() throws {
    try loop.turn(timeout: 0)
    check()
  }

  private func say(_ request: FrontEndRequest, _ payload: [UInt8], gifts: [UInt8] = []) throws {
    try peer.send(VhostUserMessage(request, payload).encoded, gifts: gifts)
  }

  /// Serves what was said, and throws replies away.
  private func settle() throws {
    try loop.turn(timeout: 0)
    while peer.receive() != nil {}
    claim(!ended, "the session ended without a reason")
  }

  func connect() throws {
    let transport =
      VirtioFeature.version1 | VirtioFeature.eventIndex | VirtioFeature.indirectDescriptors
      | VirtioFeature.protocolFeatures
    try say(.setProtocolFeatures, WordPayload(ProtocolFeatures.offered.rawValue).bytes)
    try say(.setFeatures, WordPayload(transport | device.deviceFeatures).bytes)
    try shareMemory(all: true)
    try start()
  }

  func shareMemory(all: Bool) throws {
    let split = UInt64(Place.split)
    let rest = UInt64(Stock.guestSize) - split
    var regions = [
      MemoryRegion(guestAddress: 0, size: split, userAddress: Place.user, fileOffset: 0)
    ]
    if all {
      regions.append(
        MemoryRegion(
          guestAddress: split, size: rest, userAddress: Place.user + split, fileOffset: split))
    }
    try say(.setMemoryTable, MemoryTable(regions).bytes, gifts: all ? [0, 0] : [0])
    try settle()
  }

  func start() throws {
    for queue in 0..<2 as Range<UInt32> {
      let base = Place.user + UInt64(queue) * UInt64(Place.queue)
      let ring = RingAddresses(
        descriptors: base, available: base + UInt64(Place.available),
        used: base + UInt64(Place.used))
      try say(.setVringNum, VringState(index: queue, num: UInt32(Self.ringSize)).bytes)
      try say(.setVringBase, VringState(index: queue, num: UInt32(offered[Int(queue)])).bytes)
      try say(.setVringAddress, VringAddress(index: queue, ring).bytes)
      try say(.setVringKick, VringDescriptor(index: queue).bytes, gifts: [UInt8(queue) + 1])
      try say(.setVringEnable, VringState(index: queue, num: 1).bytes)
    }
    try settle()
  }

  /// After this every request that was taken is answered.
  func stop(_ queue: UInt32) throws {
    try turn()
    try say(.getVringBase, VringState(index: queue, num: 0).bytes)
    try settle()
    claim(
      used(Int(queue)) == offered[Int(queue)],
      "queue \(queue) stopped with \(used(Int(queue))) of \(offered[Int(queue)]) answers")
  }

  func restart(queue: UInt32) throws {
    try stop(queue)
    try start()
  }

  func resetDevice() throws {
    for queue in 0..<2 as Range<UInt32> { try stop(queue) }
    try say(.resetDevice, [])
    try settle()
    try start()
  }

  func setDemand(_ on: Bool) {
    sink.wantsBuffers = on
  }

  private func used(_ queue: Int) -> UInt16 {
    Stock.u16(at: queue * Place.queue + Place.used + 2)
  }

  private func check() {
    for queue in 0..<2 {
      let waiting = offered[queue] &- used(queue)
      claim(waiting <= Self.ringSize, "queue \(queue): more answers than requests")
    }
  }

  /// Puts a request on a ring, unless its place waits for an answer.
  func offer(_ request: [UInt8], queue: Int, room: UInt32 = 1080) {
    guard offered[queue] &- used(queue) < Self.ringSize / 2 else { return }
    let base = queue * Place.queue
    // Answers come out of order, so a place is free only if none waits.
    guard let slot = freeSlot(queue) else { return }
    let place = Place.slots + (queue * 8 + slot) * Place.slotSize
    let bytes = Array(request.prefix(Place.slotSize))
    Stock.write(bytes, at: place)
    let answers = Place.pages - (queue * 8 + slot + 1) * Place.slotSize
    var table = Script()
    descriptor(&table, place, UInt32(bytes.count), flags: 1, next: UInt16(slot * 2 + 1))
    descriptor(&table, answers, min(room, UInt32(Place.slotSize)), flags: 2, next: 0)
    Stock.write(table.bytes, at: base + slot * 32)
    let at = base + Place.available
    var head = Script()
    head.put(UInt16(slot * 2))
    Stock.write(head.bytes, at: at + 4 + 2 * Int(offered[queue] % Self.ringSize))
    offered[queue] &+= 1
    var index = Script()
    index.put(offered[queue])
    Stock.write(index.bytes, at: at + 2)
    busy[queue].insert(slot)
    _ = ph_eventfd_signal(Stock.events[queue])
  }

  private var busy: [Set<Int>] = [[], []]
  private var seen: [UInt16] = [0, 0]

  private func freeSlot(_ queue: Int) -> Int? {
    let end = used(queue)
    while seen[queue] != end {
      let entry = queue * Place.queue + Place.used + 4 + 8 * Int(seen[queue] % Self.ringSize)
      let slot = Int(Stock.u16(at: entry)) / 2
      claim(busy[queue].remove(slot) != nil, "a request was answered twice")
      seen[queue] &+= 1
    }
    return (0..<8).first { !busy[queue].contains($0) }
  }

  private func descriptor(
    _ script: inout Script, _ address: Int, _ count: UInt32, flags: UInt16, next: UInt16
  ) {
    script.put(UInt64(address))
    script.put(count)
    script.put(flags)
    script.put(next)
  }

  func finish() throws {
    for queue in 0..<2 as Range<UInt32> {
      try stop(queue)
      _ = freeSlot(Int(queue))
      claim(busy[Int(queue)].isEmpty, "a request was not answered")
    }
    peer.close()
    for _ in 0..<8 where !ended { try loop.turn(timeout: 0) }
    claim(ended, "the session did not end with its front-end")
    session = nil
    claim(holds.pending == 0, "a fence waits after the guest is gone")
    sink.release(.max)
    claim(store.pinnedBytes == 0, "pages stay pinned after the guest is gone")
    claim(
      (0..<Scene.outputCount).allSatisfy { device.scene.size($0) == nil },
      "outputs stay on after the guest is gone")
  }
}
