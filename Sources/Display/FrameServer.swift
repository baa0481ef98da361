import Buffers
import Fences
import FrameWire
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

/// Shows frames to consumers on a Unix socket, as Protocol/README.md describes.
///
/// It lives in the event loop's thread and never waits: a consumer that does not read or answer
/// costs the guest at most one deadline, and the others nothing.
public final class FrameServer: DisplaySink {
  /// How the server treats its consumers; times are nanoseconds.
  public struct Options: Sendable {
    /// Frames of one output without FRAME_DONE.
    public var maxInFlight = 2
    /// After this a frame in flight is given back to the guest; a copy after ten times as long.
    public var holdDeadline: UInt64 = 40_000_000
    /// After this a removed buffer counts as closed.
    public var closeDeadline: UInt64 = 40_000_000
    /// After this a connection without CONSUMER_HELLO ends.
    public var helloDeadline: UInt64 = 5_000_000_000
    /// Connections at a time.
    public var maxConsumers = 32
    /// Users that may connect beside our own and root.
    public var allowedUsers: Set<UInt32> = []
    /// Users that may connect where nothing but copies is shown, beside those.
    public var allowedCopyUsers: Set<UInt32> = []

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

  /// Who shows its pictures to each new consumer.
  public weak var source: (any DisplaySource)?
  /// Called when the first consumer came (true) or the last one left (false).
  public var onDemandChanged: ((Bool) -> Void)?
  /// What happened since the start.
  public internal(set) var counters = Counters()
  /// Consumers connected now.
  public internal(set) var consumers = 0
  /// How consumers are treated.
  public let options: Options

  let loop: EventLoop
  let log: Logger
  var clients: [FrameClient] = []
  var releases = FrameReleases()
  var listeners: [FrameListener] = []
  var withdrawals: [FrameWithdrawal] = []
  var withdrawalTimer: LoopTimer?
  var lateTimer: LoopTimer?
  /// When `lateTimer` runs out.
  var lateDue = UInt64.max
  /// Tickets of the frame that is being presented.
  var presented: [FrameTicket] = []
  var isPresenting = false
  /// Tickets whose implicit readers are not done.
  var reading: [FrameTicket] = []
  var acquisitions: [FrameAcquisition] = []
  var spareTickets: [FrameTicket] = []
  var isSettling = false
  /// A copy was given back: consumers that wait for one may get it.
  var hasFreeCopy = false
  private var hadDemand = false
  private var lastCursor: (serial: UInt64, file: SharedFD)?
  let scratch: UnsafeMutableRawBufferPointer
  var fds: [CInt] = []

  /// Makes a server without a socket; see ``listen(_:copiesOnly:)``.
  public init(loop: EventLoop, options: Options = Options(), log: Logger) throws(Errno) {
    self.loop = loop
    self.options = options
    self.log = log
    scratch = .allocate(byteCount: Int(PINHOLE_MAX_MESSAGE), alignment: 8)
    presented.reserveCapacity(8)
    withdrawalTimer = try LoopTimer(on: loop) { [unowned self] in expireWithdrawals() }
    lateTimer = try LoopTimer(on: loop) { [unowned self] in expireFrames() }
  }

  deinit {
    for client in clients {
      if let token = client.token { loop.unwatch(token) }
      for ticket in client.takeTickets() { reading.append(ticket) }
    }
    for ticket in reading + acquisitions.map(\.ticket) { ticket.end() }
    for withdrawal in withdrawals { withdrawal.finish()?() }
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
    settle()
  }

  // MARK: DisplaySink

  /// Whether any consumer is connected.
  public var wantsBuffers: Bool { consumers > 0 }

  /// Tells all consumers of an output's size.
  public func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    for client in clients { client.output(index, resized: size) }
    settle()
  }

  /// Sends a frame to all consumers, or keeps it for those that are behind.
  public func present(_ frame: Frame) {
    guard frame.buffer != nil || frame.copies != nil else { return }
    let now = Clock.now
    let acquire = waitFor(frame)
    inOnePresentation {
      for client in clients { client.present(frame, acquire: acquire, timestamp: now) }
    }
    settle()
  }

  /// Takes a generation back from all consumers that know it.
  ///
  /// - Parameter released: called at once if none does, else when all have answered and none of
  ///   their GPUs reads any more, or at the close deadline.
  public func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) {
    let withdrawal = FrameWithdrawal(
      buffer, deadline: Clock.now &+ options.closeDeadline, released)
    // Counts as an answer of our own, so that none of the consumers' is the last too early.
    withdrawal.waiting = 1
    withdrawals.append(withdrawal)
    for client in clients { client.withdraw(withdrawal.key, reason, withdrawal) }
    answered(withdrawal)
    armWithdrawals()
    settle()
  }

  /// Tells all consumers of a cursor.
  public func cursor(_ state: CursorState, imageChanged: Bool) {
    if state.image == nil { lastCursor = nil }
    for client in clients { client.cursor(state) }
    settle()
  }

  func updateDemand() {
    guard hadDemand != (consumers > 0) else { return }
    hadDemand = consumers > 0
    onDemandChanged?(hadDemand)
  }

  /// A sealed memfd with a cursor's pixels; nil if it cannot be made.
  func cursorFile(_ image: CursorImage) -> SharedFD? {
    if let lastCursor, lastCursor.serial == image.serial { return lastCursor.file }
    do throws(Errno) {
      let file = try FrameCursorFile.make(image)
      lastCursor = (image.serial, file)
      return file
    } catch {
      log.warning("cannot share a cursor image: \(error)")
      return nil
    }
  }
}
