import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeProtocol

/// Frames out of a frame or copy socket into an event loop, for as long as the bridge runs: when
/// the producer is gone, its next start is waited for.
///
/// Always copies: what goes on to other programs is never the guest's memory. It belongs to the
/// loop's thread.
public final class FrameFeed {
  /// What a bridge is told.
  public struct Handlers {
    /// An output shows a picture of a size, or nothing.
    public var output: (OutputState) -> Void = { _ in }
    /// A frame, to be answered with ``FrameFeed/done(_:)``, now or later.
    public var frame: (ReceivedFrame, ReceivedBuffer) -> Void = { _, _ in }
    /// A buffer is not to be shown any more.
    public var removed: (BufferName) -> Void = { _ in }
    /// The producer is gone: frames need no answer any more, buffers have ended.
    public var lost: () -> Void = {}
    /// Ignores everything.
    public init() {}
  }

  private let path: String
  private let name: String
  private let takesPool: Bool
  private let loop: EventLoop
  private let log: Logger
  private let handlers: Handlers
  private var consumer: FrameConsumer?
  private var token: EventLoop.Token?
  private var retry: LoopTimer?
  private var hasComplained = false
  private static let eventsPerTurn = 64

  /// Connects, now or as soon as there is a producer.
  ///
  /// - Parameters:
  ///   - path: a frame or copy socket.
  ///   - name: tells people who is looking; cut at 31 bytes.
  ///   - takesPool: as ``FrameConsumer/Options/takesPool``.
  public init(
    path: String, name: String, takesPool: Bool = false, loop: EventLoop, log: Logger,
    handlers: Handlers
  ) {
    self.path = path
    self.takesPool = takesPool
    self.name = name
    self.loop = loop
    self.log = log
    self.handlers = handlers
    retry = LoopTimer(on: loop) { [unowned self] in connect() }
    connect()
  }

  deinit { if let token { loop.unwatch(token) } }

  /// Whether there is a producer.
  public var isConnected: Bool { consumer != nil }

  /// All buffers that frames may be in, as far as the producer has told, oldest first.
  public var buffers: [ReceivedBuffer] {
    (consumer?.buffers.values).map { $0.sorted { $0.name.number < $1.name.number } } ?? []
  }

  /// The producer tells of all copies before a frame is in one of them.
  public var hasPool: Bool {
    consumer?.producer.map { $0.features & PINHOLE_FEATURE_POOL != 0 } ?? false
  }

  /// Frames of one output that may be unanswered.
  public var maxInFlight: Int { Int(consumer?.producer?.maxInFlight ?? 1) }

  /// A frame is not read any more. One of a producer that is gone is passed over.
  public func done(_ frame: ReceivedFrame, of buffer: ReceivedBuffer) {
    // Numbers begin again with each producer; the buffer tells them apart.
    guard let consumer, consumer.buffers[frame.buffer] === buffer else { return }
    do throws(FramesError) { try consumer.done(frame) } catch { lose(error) }
  }

  private func connect() {
    guard consumer == nil else { return }
    do throws(FramesError) {
      var options = FrameConsumer.Options(name: name, copyOnly: true, isExplicit: true)
      options.takesPool = takesPool
      // A producer that is stopped does not stop the bridge's loop.
      options.patience = 0
      let made = try FrameConsumer(path: path, options: options)
      do throws(Errno) {
        token = try loop.watch(made.fd, for: .readable) { [unowned self] _ in turn() }
      } catch { throw .system(error) }
      consumer = made
      hasComplained = false
    } catch {
      complain("\(error)")
      retry?.arm(after: 500_000_000)
    }
  }

  private func turn() {
    do throws(FramesError) {
      for _ in 0..<Self.eventsPerTurn {
        guard let consumer, let event = try consumer.next(timeout: 0) else { return }
        switch event {
        case .output(let state): handlers.output(state)
        case .frame(let frame):
          guard let buffer = consumer.buffers[frame.buffer] else { continue }
          handlers.frame(frame, buffer)
        case .bufferRemoved(let name, _): handlers.removed(name)
        case .connected(let producer): log.info("\(name) sees frames of \(producer.name)")
        case .bufferAdded, .cursor: break
        }
      }
    } catch { lose(error) }
  }

  private func lose(_ error: FramesError) {
    guard consumer != nil else { return }
    if let token { loop.unwatch(token) }
    token = nil
    consumer = nil
    complain("\(error)")
    handlers.lost()
    retry?.arm(after: 500_000_000)
  }

  private func complain(_ what: String) {
    guard !hasComplained else { return }
    hasComplained = true
    log.warning("\(name): \(what); trying again until it works")
  }
}
