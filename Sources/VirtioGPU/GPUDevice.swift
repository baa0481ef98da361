import Buffers
import Fences
import GPUCommands
import GuestMemory
import Linux
import Logging
import Scene
import Virtqueue

/// Whether the guest is to be told that requests were answered.
private enum Interrupt { case none, soon, now }

/// The virtio-gpu device: resources, scanouts and cursors of one guest (virtio 1.3 §5.7).
///
/// It belongs to the event loop's thread. Displays look at its ``scene``.
public final class GPUDevice {
  let configuration: GPUConfiguration
  let memory: GuestMemory
  let store: BufferStore
  let log: Logger
  /// Flushes that consumers hold back.
  public let holds: HoldQueue
  /// What the guest shows, for its displays.
  public let scene: Scene
  /// Who knows about the host's displays; without one the guest gets our own modes and EDID.
  public weak var displays: (any DisplayInfoSource)?
  /// The front-end is gone, and what it showed with it.
  public var frontEndLeft: (() -> Void)?

  var resources: [UInt32: Resource] = [:]
  /// Resources with a dma-buf, shown or shown a moment ago.
  var exporting: [Resource] = []
  var scanouts: [Scanout]
  /// Pays for everything that the guest makes.
  let budget: HostBudget
  /// Budgets whose end was logged since the last reset.
  private var exceeded: Set<Budget> = []
  /// Where other devices learn what they may ask for.
  weak var registry: (any SharedObjectRegistry)?
  /// Those who were given what other devices ask for.
  let otherDevices = Recipient("another device of this guest")
  /// What other devices may ask for.
  var shared: [SharedObjectID: Resource] = [:]
  var cursorSerial: UInt64 = 0
  /// Draws 3D; to be set before a guest comes. Without one the device offers none.
  public var renderer: (any Renderer)? { didSet { renderer?.client = self } }
  /// What the guest has in the renderer.
  var rendered: RenderTables
  var unanswered = AnswerList()
  /// Answers that must not overtake each other.
  var fences = FenceOrder()
  /// The control queue and the cursor queue, while they run.
  private var queues: [VirtioQueue?] = [nil, nil]
  private var owed = [Interrupt.none, .none]
  /// The lock of the flush that is being run.
  var flushed: Hold?
  /// Somebody wanted the guest's pages at the end of the last turn.
  var hadDemand = false
  /// How many of the scene's copied bytes are in the counters.
  var countedCopies: UInt64 = 0
  /// A flush of this turn is held back, and will interrupt the guest when it is answered.
  var holdsFlush = false
  private var request = GPURequest()
  /// A transfer that takes several turns; requests behind it wait.
  var longTransfer: (transfer: LongTransfer, queue: VirtioQueue)?
  /// Resources whose lost pages may be back, those on screen first; see ``memoryChanged(removed:)``.
  var recovering: [Resource] = []
  var recoveryTimer: LoopTimer?
  var timer: LoopTimer?
  /// When the timer ran out last.
  var tickedAt: UInt64 = 0
  var ticks: UInt64 = 0
  /// Nanoseconds between looks: longer than they are configured where they cost much.
  var lookInterval: UInt64
  /// No look but that of a flush at its own picture before this, in nanoseconds of the monotonic
  /// clock: the last ones have cost so much.
  var restsUntil: UInt64 = 0
  var looks = LookOrder()
  var pace = FlushPace()
  /// What happened so far.
  public internal(set) var counters = GPUCounters()

  /// Makes a device without a guest.
  ///
  /// - Parameters:
  ///   - configuration: modes and budgets.
  ///   - memory: the guest's memory table, which the vhost-user session keeps.
  ///   - store: makes and watches the buffers.
  ///   - loop: the loop whose thread owns the device.
  public init(
    _ configuration: GPUConfiguration, memory: GuestMemory, store: BufferStore,
    holds: HoldQueue, on loop: EventLoop, log: Logger
  ) {
    self.configuration = configuration
    self.memory = memory
    self.store = store
    self.holds = holds
    self.log = log
    budget = HostBudget(limit: configuration.hostMemory)
    rendered = RenderTables(memory: configuration.renderMemory)
    lookInterval = configuration.scanInterval
    scanouts = (0..<maxScanouts).map { Scanout(index: $0) }
    scene = Scene(
      maxCopies: configuration.maxCopies, memory: CopyMemory(limit: configuration.copyMemory))
    timer = LoopTimer(on: loop) { [unowned self] in tick() }
    recoveryTimer = LoopTimer(on: loop) { [unowned self] in
      recoverSome()
      scene.publish()
    }
    loop.everyTurn { [unowned self] in finishTurn() }
    budget.givers = [
      { [unowned self] in resources.values.contains { $0.snapshots.dropSpares() } },
      { [unowned self] in renderer?.giveMemoryBack() ?? false },
    ]
    scene.outOfMemory = { [unowned self] in _ = refuse(.copies) }
    holds.onExpiry = { [scene] in scene.expire($0) }
  }

  /// Bytes of host memory that the guest's pictures take.
  public var hostBytes: UInt64 { budget.used }

  /// What to answer over budget; logged once for each budget until the next reset.
  func refuse(_ budget: Budget) -> GPUError {
    if exceeded.insert(budget).inserted {
      log.warning("the guest is out of \(budget.rawValue)")
    }
    return .outOfMemory
  }

  var wantsBuffers: Bool { scene.wantsBuffers }

  /// The timer runs while a buffer is exported and never otherwise.
  func updateTimer() {
    guard let timer else { return }
    if exporting.isEmpty {
      timer.disarm()
    } else if !timer.isArmed {
      tickedAt = Clock.now
      timer.arm(after: lookInterval, every: lookInterval)
    }
  }
}

// MARK: - Rings

extension GPUDevice {
  /// Requests served before other descriptors of the event loop get their turn.
  private static let batch = 64
  /// Nanoseconds after which they get it anyway: large transfers take their time.
  private static let longestTurn: UInt64 = 8_000_000

  /// Serves the requests of a ring; the guest gets at most one interrupt for them.
  func serve(_ queue: VirtioQueue) {
    var left = Self.batch
    let deadline = Clock.now &+ Self.longestTurn
    guard finishTransfer(by: deadline) else { return queue.kickAgain() }
    queue.ring.disableNotifications()
    repeat {
      while left > 0, let chain = queue.pop() {
        left = Clock.now < deadline ? left - 1 : 0
        request.load { chain.read(into: $0) }
        counters.commands &+= 1
        let header = request.header
        answer(
          Exchange(
            device: self, queue: queue, chain: chain, header: header, number: counters.commands))
        if longTransfer != nil { left = 0 }
      }
    } while left > 0 && queue.ring.enableNotifications()
    if left == 0 { queue.kickAgain() }
  }

  /// Answers a request; the interrupt waits for the end of the loop's turn.
  ///
  /// - Parameter isAwaited: the guest wants to know: it has a fence, or asked something.
  func complete(
    _ queue: VirtioQueue, _ chain: DescriptorChain, written: Int, isAwaited: Bool
  ) {
    queue.push(chain, written: UInt32(clamping: written))
    guard queues.indices.contains(queue.index) else { return }
    if isAwaited {
      owed[queue.index] = .now
    } else if case .none = owed[queue.index] {
      owed[queue.index] = .soon
    }
  }

  /// One interrupt for a frame: what nobody waits for is told with the flush that is held back.
  func interrupt() {
    defer { holdsFlush = false }
    for i in queues.indices {
      let owes = owed[i]
      owed[i] = .none
      if owes == .now || owes == .soon && !(holdsFlush && i == 0) {
        queues[i]?.notifyIfWanted()
      }
    }
  }

  private func answer(_ exchange: Exchange) {
    queueFence(of: exchange)
    run(exchange) { () throws(GPUError) in try execute(request.command(), exchange) }
  }

  /// Runs a request, or the rest of one, lets everybody see what it has changed, and answers it.
  func run(_ exchange: Exchange, _ body: () throws(GPUError) -> Outcome) {
    let outcome: Result<Outcome, GPUError>
    do throws(GPUError) { outcome = .success(try body()) } catch { outcome = .failure(error) }
    // Before the answer, after which the guest draws again.
    scene.publish()
    switch outcome {
    case .success(.reply(let response)): exchange.send(response)
    case .success: break
    case .failure(let error):
      counters.errors &+= 1
      log.debug("command 0x\(String(exchange.header.type, radix: 16)) is refused: \(error)")
      exchange.send(.error(error))
    }
    guard let hold = flushed else { return }
    // All that have the frame have locked it.
    flushed = nil
    hold.release()
    holds.add(hold)
    holdsFlush = holdsFlush || hold.isPending
  }

  /// A fenced request that comes behind others of its timeline waits for its turn, not for long.
  private func queueFence(of exchange: Exchange) {
    guard let timeline = FenceTimeline(exchange.header), fences.isBusy(timeline) else { return }
    let now = Clock.now
    for hold in fences.holds(of: timeline) {
      holds.shorten(hold, to: now &+ FenceOrder.longestWait)
    }
    fences.add(exchange, behindSince: now)
  }

  /// The right to answer a request later.
  ///
  /// - Parameter fallback: makes the answer if the queue stops before.
  func answerLater(
    _ exchange: Exchange, fallback: @escaping () -> GPUResponse = { .ok }
  ) -> Answer {
    fences.add(exchange)
    return unanswered.add(exchange, fallback: fallback)
  }

  /// Sends what may go out now that a request has its answer.
  func sendFences(of exchange: Exchange) {
    guard let timeline = FenceTimeline(exchange.header) else { return }
    while let (oldest, response) = fences.next(
      of: timeline, waited: { counters.fenceWaits.add($0) })
    {
      oldest.write(response)
    }
  }

  /// Runs one request.
  private func execute(_ command: GPUCommand, _ exchange: Exchange) throws(GPUError) -> Outcome {
    switch command {
    case .getDisplayInfo: displayInfo(exchange)
    case .getEDID(let scanout): try edid(scanout, exchange)
    case .createImage(let image): try createImage(image)
    case .createBlob(let blob): try createBlob(blob, exchange)
    case .unref(let id): try unref(id, exchange)
    case .attachBacking(let id, let entries): try attachBacking(id, entries, exchange)
    case .detachBacking(let id): try detachBacking(id, exchange)
    case .transferToHost(let transfer): try self.transfer(transfer, exchange)
    case .setScanout(let new): try setScanout(new)
    case .setScanoutBlob(let new): try setScanoutBlob(new)
    case .flush(let id, let rect): try flush(id, rect, exchange)
    case .assignUUID(let id): try assignUUID(id)
    case .updateCursor(let cursor): try updateCursor(cursor)
    case .moveCursor(let cursor): try moveCursor(cursor)
    case .getCapsetInfo(let index): try capsetInfo(index)
    case .getCapset(let id, let version): try capset(id, version)
    case .createContext, .destroyContext, .attachToContext, .detachFromContext, .createResource,
      .transfer3D, .submit:
      try execute3D(command, exchange)
    case .mapBlob, .unmapBlob: throw .unspecified
    }
  }
}

// MARK: - Life

extension GPUDevice {
  /// Forgets everything that the guest made, as a device reset does.
  public func reset() {
    if let queue = longTransfer?.queue { _ = finishTransfer(on: queue, by: .max) }
    holds.expireAll()
    for resource in exporting { revoke(resource, .reset) {} }
    exporting = []
    updateTimer()
    for id in shared.keys { registry?.retract(id) }
    shared = [:]
    resources = [:]
    recovering = []
    resetRendering()
    exceeded = []
    for scanout in scanouts {
      scene.dropCopies(of: scanout.index, .reset)
      revokeRendered(scanout, .reset)
      if scanout.resource != nil, scanout.show(nil, scanout.rect) {
        scene.resize(scanout.index, to: nil)
      }
      scanout.policy = ScanoutPolicy()
      hideCursor(of: scanout)
      scanout.hiddenCursor = nil
    }
    scene.publish()
  }
}

// MARK: - The transport's side

extension GPUDevice: VirtioDevice {
  private static let virglFeature: UInt64 = 1 << 0
  private static let edidFeature: UInt64 = 1 << 1
  private static let uuidFeature: UInt64 = 1 << 2
  private static let blobFeature: UInt64 = 1 << 3

  /// `VIRTIO_GPU_F_EDID`, `VIRTIO_GPU_F_RESOURCE_UUID`, `VIRTIO_GPU_F_RESOURCE_BLOB`, and
  /// `VIRTIO_GPU_F_VIRGL` with a renderer.
  public var deviceFeatures: UInt64 {
    Self.edidFeature | Self.uuidFeature | Self.blobFeature | (offers3D ? Self.virglFeature : 0)
  }
  /// controlq and cursorq.
  public var queueCount: Int { queues.count }
  /// As QEMU's largest.
  public var maxQueueSize: UInt16 { 1024 }

  /// Nothing depends on them: a guest that did not negotiate blobs sends none.
  public func featuresNegotiated(_ features: UInt64) {
    log.debug("the guest's driver chose features 0x\(String(features, radix: 16))")
  }

  /// `struct virtio_gpu_config`: no events, our outputs and capsets.
  public func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    var space = [UInt8](repeating: 0, count: 256)
    space[8] = UInt8(clamping: min(configuration.outputs, UInt32(maxScanouts)))
    if offers3D { space[12] = UInt8(clamping: renderer?.capsets.count ?? 0) }
    guard let start = Int(exactly: offset), let count = Int(exactly: count),
      start <= space.count, count <= space.count - start
    else { return nil }
    return Array(space[start..<(start + count)])
  }

  /// A queue may be served from now on.
  public func queueStarted(_ index: Int, _ queue: VirtioQueue) {
    guard queues.indices.contains(index) else { return }
    queues[index] = queue
  }

  /// Answers what waits on the queue, and forgets it.
  public func queueStopped(_ index: Int) {
    guard queues.indices.contains(index), let queue = queues[index] else { return }
    // What the guest takes for done has to be: it goes on where it was when the queue comes back.
    _ = finishTransfer(on: queue, by: .max)
    holds.expireAll()
    unanswered.finish(of: queue)
    while let (exchange, response) = fences.next(on: queue) { exchange.write(response) }
    interrupt()
    queues[index] = nil
  }

  /// Serves what the driver made available.
  public func queueKicked(_ index: Int) {
    guard queues.indices.contains(index), let queue = queues[index] else { return }
    serve(queue)
  }

  /// Back to the beginning.
  public func deviceReset() { reset() }

  /// Without a guest there is nothing to show.
  public func disconnected() {
    reset()
    registry = nil
    frontEndLeft?()
  }
}
