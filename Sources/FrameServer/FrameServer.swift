import Buffers
import Fences
import FrameProtocol
import Linux
import Logging
import PinholeProtocol
import Scene

/// Shows frames to consumers on a Unix socket, as Protocol/README.md describes.
///
/// It lives in the event loop's thread and never waits: a consumer that does not read or answer
/// costs the guest at most one deadline, and the others nothing.
public final class FrameServer: Sink {
  /// How the server treats its consumers; times are nanoseconds.
  public struct Options: Sendable {
    /// Frames of one output without FRAME_DONE.
    public var maxInFlight = 2
    /// The same for consumers that pass copies on (`PINHOLE_FEATURE_POOL`): what is shown, what is
    /// shown next, what is on its way back, and a new one.
    public var maxPooledInFlight = 4
    /// After this a frame in flight is given back to the guest; a copy after ten times as long.
    public var holdDeadline = HoldQueue.defaultDeadline
    /// After this a removed buffer counts as closed.
    public var closeDeadline = HoldQueue.defaultDeadline
    /// After this a connection without CONSUMER_HELLO ends.
    public var helloDeadline: UInt64 = 5_000_000_000
    /// Connections at a time.
    public var maxConsumers = 32

    /// The defaults.
    public init() {}
  }

  /// What happened since the start.
  public struct Counters: Sendable, Equatable {
    /// Connections that said CONSUMER_HELLO.
    public var consumers: UInt64 = 0
    /// Connections refused or ended with an ERROR.
    public var refused: UInt64 = 0
    /// FRAME messages sent.
    public var framesSent: UInt64 = 0
    /// FRAME_DONE messages received.
    public var framesDone: UInt64 = 0
    /// Frames of guest pages that were not released before the hold deadline.
    public var framesLate: UInt64 = 0
    /// Copies that were not released for ten times as long, which nobody waited for.
    public var copiesLate: UInt64 = 0
    /// FRAME_DONE messages and frames whose fences had to be waited for.
    public var fencesAwaited: UInt64 = 0
    /// FRAME messages whose pixels are a copy.
    public var copiesSent: UInt64 = 0
    /// Frames that a consumer did not get because it was behind.
    public var dropped: UInt64 = 0
    /// Buffers that a consumer did not close before the close deadline.
    public var closesLate: UInt64 = 0
  }

  /// What happened since the start.
  public internal(set) var counters = Counters()
  /// Consumers connected now.
  public internal(set) var consumers = 0
  /// How consumers are treated.
  public let options: Options

  /// It keeps its sinks, not they it.
  unowned let scene: Scene
  let loop: EventLoop
  let log: Logger
  var clients: [FrameClient] = []
  /// Processes that are connected, or have what they were to let go.
  private var recipients: [Int32: Recipient] = [:]
  var listeners: [Listener] = []
  var revocations: [FrameRevocation] = []
  var revocationTimer: LoopTimer?
  var lateTimer: LoopTimer?
  var againTimer: LoopTimer?
  /// When `lateTimer` runs out.
  var lateDue = UInt64.max
  /// Implicit readers that are not done.
  var reading: [FrameReaders] = []
  /// Pictures whose fences have not signalled.
  var acquisitions: [FrameAcquisition] = []
  /// Pictures whose fences have, and that were not pulled since.
  var drawn: [FrameAcquisition] = []
  let cursors = FrameCursorFiles()
  let scratch: UnsafeMutableRawBufferPointer
  var fds: [CInt] = []

  /// Makes a server without a socket; see ``listen(_:copiesOnly:)``.
  ///
  /// - Parameter scene: what it shows; it has to be added there.
  public init(
    _ scene: Scene, loop: EventLoop, options: Options = Options(), log: Logger
  ) {
    self.scene = scene
    self.loop = loop
    self.options = options
    self.log = log
    scratch = .allocate(byteCount: Int(PINHOLE_MAX_MESSAGE), alignment: 8)
    revocationTimer = LoopTimer(on: loop) { [unowned self] in expireRevocations() }
    lateTimer = LoopTimer(on: loop) { [unowned self] in expireFrames() }
    againTimer = LoopTimer(on: loop) { [unowned self] in
      for client in clients { client.wantsMore = true }
    }
  }

  deinit {
    for client in clients {
      if let token = client.token { loop.unwatch(token) }
      for frame in client.outputs.flatMap(\.inFlight) where !frame.isLate { frame.lock?.release() }
    }
    for readers in reading where !readers.isOverdue { readers.lock.release() }
    for acquisition in acquisitions + drawn { acquisition.lock?.release() }
    for revocation in revocations { revocation.finish() }
    scratch.deallocate()
  }

  /// Tells every consumer that it is over, and removes the sockets.
  public func close() {
    listeners = []
    for client in clients {
      end(
        client,
        MalformedMessage(code: PINHOLE_ERROR_SHUTDOWN, type: 0, text: "the producer ends"))
    }
  }

  // MARK: Sink

  /// Whether any consumer is connected.
  public var wantsBuffers: Bool { consumers > 0 }

  /// Outputs that a consumer has room for now.
  public var lateOutputs: OutputSet {
    clients.reduce([]) { $0.union($1.lateOutputs) }
  }

  /// Sends what has changed to all consumers; those that are behind are noted to owe it.
  public func pull(_ changed: OutputSet) {
    awaitAcquire(changed)
    for client in clients {
      for index in client.outputs.indices where changed.contains(OutputSet(index)) {
        client.note(scene.news(of: index), of: index)
      }
      client.flush(changed)
    }
  }

  /// Sends consumers that have room again what they missed.
  public func pullLate() {
    while let client = clients.first(where: \.wantsMore) {
      client.wantsMore = false
      client.waitsForCopy = false
      client.flush(.all)
    }
    let done = drawn
    drawn = []
    for acquisition in done { acquisition.lock?.release() }
  }

  /// Takes a generation back from all consumers that know it; it counts as let go when all have
  /// answered and none of their GPUs reads any more, or at the close deadline.
  public func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {
    let revocation = FrameRevocation(
      buffer, deadline: Clock.now &+ options.closeDeadline, lock
    ) { [unowned self] in closed($0) }
    revocations.append(revocation)
    for client in clients { client.revoke(revocation.key, reason, revocation) }
    revocation.closers.release()
    armRevocations()
  }

  /// Whether a consumer has a buffer on its screen.
  public func shows(_ buffer: OfferedBuffer) -> Bool {
    let key = FrameBufferKey(buffer)
    return clients.contains { $0.isOnScreen(key) }
  }

  /// The process at the other end of a socket.
  ///
  /// Processes outside of our PID namespace all have the number 0 (pid_namespaces(7)): each of their
  /// connections stands for itself, so that none answers for another.
  func recipient(ofProcess pid: Int32) -> Recipient {
    recipients = recipients.filter { pid, known in
      known.keepsPages || clients.contains { $0.peer.pid == pid }
    }
    guard pid != 0 else { return Recipient("frame consumer (process 0)") }
    if let known = recipients[pid] { return known }
    let new = Recipient("frame consumer (process \(pid))")
    recipients[pid] = new
    return new
  }
}
