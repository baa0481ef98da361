import Buffers
import Fences
import GuestMemory
import Linux
import Logging
import VhostUser
import Virtqueue

/// Whether the guest is to be told that requests were answered.
private enum Interrupt { case none, soon, now }

/// The virtio-gpu device: resources, scanouts and cursors of one guest (virtio 1.3 §5.7).
///
/// It belongs to the event loop's thread. Displays look at it as ``DisplaySink``s.
public final class GPUDevice {
  let configuration: GPUConfiguration
  let memory: GuestMemory
  let store: BufferStore
  let log: Logger
  let holds: HoldQueue
  var sinks: [any DisplaySink] = []
  /// Who knows about the host's displays; without one the guest gets our own modes and EDID.
  public weak var displays: (any DisplayInfoSource)?
  /// Takes over the sockets to the front-end's display; without it they are closed.
  public var displaySocketArrived: ((consuming OwnedFD) -> Void)?
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
  /// What other devices may ask for.
  var shared: [SharedObjectID: Resource] = [:]
  var cursorSerial: UInt64 = 0
  var unanswered = AnswerList()
  /// The control queue and the cursor queue, while they run.
  private var queues: [VhostUserQueue?] = [nil, nil]
  private var owed = [Interrupt.none, .none]
  /// A flush of this turn is held back, and will interrupt the guest when it is answered.
  var holdsFlush = false
  private var request = Request()
  var timer: LoopTimer?
  /// When the timer ran out last.
  var tickedAt: UInt64 = 0
  var ticks: UInt64 = 0
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
  /// - Throws: errors of timerfd_create(2).
  public init(
    _ configuration: GPUConfiguration, memory: GuestMemory, store: BufferStore,
    holds: HoldQueue, on loop: EventLoop, log: Logger
  ) throws(Errno) {
    self.configuration = configuration
    self.memory = memory
    self.store = store
    self.holds = holds
    self.log = log
    budget = HostBudget(limit: configuration.hostMemory)
    scanouts = (0..<maxScanouts).map { Scanout(index: $0) }
    timer = try LoopTimer(on: loop) { [unowned self] in tick() }
    loop.everyTurn { [unowned self] in interrupt() }
    for scanout in scanouts { scanout.device = self }
  }

  /// Adds a display and shows it what the guest shows at present.
  public func add(_ sink: any DisplaySink) {
    sinks.append(sink)
    replay(to: sink)
  }

  /// Bytes of host memory that the guest's pictures take.
  var hostBytes: UInt64 { budget.used }

  /// What to answer over budget; logged once for each budget until the next reset.
  func refuse(_ budget: Budget) -> Response {
    if exceeded.insert(budget).inserted {
      log.warning("the guest is out of \(budget.rawValue)")
    }
    return .outOfMemory
  }

  var wantsBuffers: Bool { sinks.contains { $0.wantsBuffers } }

  /// The timer runs while a buffer is exported and never otherwise.
  func updateTimer() {
    guard let timer else { return }
    if exporting.isEmpty {
      timer.disarm()
    } else if !timer.isArmed {
      tickedAt = Clock.now
      timer.arm(after: configuration.scanInterval, every: configuration.scanInterval)
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
  func serve(_ queue: VhostUserQueue) {
    var left = Self.batch
    let deadline = Clock.now &+ Self.longestTurn
    queue.ring.disableNotifications()
    repeat {
      while left > 0, let chain = queue.pop() {
        left = Clock.now < deadline ? left - 1 : 0
        request.load { chain.read(into: $0) }
        counters.commands &+= 1
        answer(Exchange(device: self, queue: queue, chain: chain, header: request.header))
      }
    } while left > 0 && queue.ring.enableNotifications()
    if left == 0 { queue.kickAgain() }
  }

  /// Answers a request; the interrupt waits for the end of the loop's turn.
  ///
  /// - Parameter isAwaited: the guest wants to know: it has a fence, or asked something.
  func complete(
    _ queue: VhostUserQueue, _ chain: DescriptorChain, written: Int, isAwaited: Bool
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
  private func interrupt() {
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
    guard request.count >= Wire.headerSize else { return exchange.send(.unspecified) }
    do throws(Response) {
      switch try execute(exchange) {
      case .done: exchange.send(.okNoData)
      case .reply(let bytes): exchange.send(bytes)
      case .later: break
      }
    } catch {
      counters.errors &+= 1
      exchange.send(error)
    }
  }

  /// Runs one request.
  private func execute(_ exchange: Exchange) throws(Response) -> Outcome {
    guard let type = CommandType(rawValue: exchange.header.type) else { throw .unspecified }
    guard request.count >= type.size else { throw .invalidParameter }
    switch type {
    case .getDisplayInfo: return displayInfo(exchange)
    case .getEDID: return try edid(request, exchange)
    case .resourceCreate2D: return try createImage(request)
    case .resourceCreateBlob: return try createBlob(request, exchange)
    case .resourceUnref: return try unref(request, exchange)
    case .resourceAttachBacking: return try attachBacking(request, exchange)
    case .resourceDetachBacking: return try detachBacking(request, exchange)
    case .transferToHost2D: return try transfer(request)
    case .setScanout: return try setScanout(request)
    case .setScanoutBlob: return try setScanoutBlob(request)
    case .resourceFlush: return try flush(request, exchange)
    case .updateCursor: return try updateCursor(request)
    case .moveCursor: return try moveCursor(request)
    case .getCapsetInfo, .getCapset: throw .invalidParameter
    case .resourceAssignUUID: return try assignUUID(request, exchange)
    }
  }
}

// MARK: - Life

extension GPUDevice {
  /// Forgets everything that the guest made, as a device reset does.
  public func reset() {
    holds.expireAll()
    for resource in exporting { withdraw(resource, .reset) {} }
    exporting = []
    updateTimer()
    for id in shared.keys { registry?.retract(id) }
    shared = [:]
    resources = [:]
    exceeded = []
    for scanout in scanouts {
      if scanout.resource != nil, scanout.show(nil, scanout.rect) {
        for sink in sinks { sink.output(scanout.index, resized: nil) }
      }
      dropPool(of: scanout, .reset)
      scanout.policy = ScanoutPolicy()
      hideCursor(of: scanout)
    }
  }
}

// MARK: - The vhost-user side

extension GPUDevice: VhostUserDevice {
  private static let edidFeature: UInt64 = 1 << 1
  private static let uuidFeature: UInt64 = 1 << 2
  private static let blobFeature: UInt64 = 1 << 3

  /// `VIRTIO_GPU_F_EDID`, `VIRTIO_GPU_F_RESOURCE_UUID` and `VIRTIO_GPU_F_RESOURCE_BLOB`.
  public var deviceFeatures: UInt64 { Self.edidFeature | Self.uuidFeature | Self.blobFeature }
  /// controlq and cursorq.
  public var queueCount: Int { queues.count }
  /// As QEMU's largest.
  public var maxQueueSize: UInt16 { 1024 }

  /// Nothing depends on them: a guest that did not negotiate blobs sends none.
  public func featuresNegotiated(_ features: UInt64) {
    log.debug("the guest's driver chose features 0x\(String(features, radix: 16))")
  }

  /// `struct virtio_gpu_config`: no events, our outputs, no capsets.
  public func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    var space = [UInt8](repeating: 0, count: 256)
    space[8] = UInt8(clamping: min(configuration.outputs, UInt32(maxScanouts)))
    guard let start = Int(exactly: offset), let count = Int(exactly: count),
      start <= space.count, count <= space.count - start
    else { return nil }
    return Array(space[start..<(start + count)])
  }

  /// A queue may be served from now on.
  public func queueStarted(_ index: Int, _ queue: VhostUserQueue) {
    guard queues.indices.contains(index) else { return }
    queues[index] = queue
  }

  /// Answers what waits on the queue, and forgets it.
  public func queueStopped(_ index: Int) {
    guard queues.indices.contains(index), let queue = queues[index] else { return }
    holds.expireAll()
    unanswered.finish(of: queue)
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

  /// QEMU's display follows each start of the machine on a new socket.
  public func displaySocket(_ fd: consuming OwnedFD) { displaySocketArrived?(fd) }

  /// Without a guest there is nothing to show.
  public func disconnected() {
    reset()
    registry = nil
    frontEndLeft?()
  }
}
