import Linux

/// Ends holds that consumers did not release in time.
public final class HoldQueue {
  private struct Entry {
    let hold: Hold
    var deadline: UInt64
  }

  /// Nanoseconds until a hold expires.
  public let deadline: UInt64
  /// Holds that expired before their consumers released them.
  public private(set) var expired: UInt64 = 0
  /// Told of each hold that expired, after its answer: its consumers are late.
  public var onExpiry: ((Hold) -> Void)?
  private var entries: [Entry] = []
  private var timer: LoopTimer?
  /// When the timer runs out, `.max` while it does not run.
  private var next = UInt64.max

  /// The default deadline in nanoseconds: Linux guests stop waiting after 50 ms.
  public static let defaultDeadline: UInt64 = 40_000_000

  /// Makes a queue whose timer runs on `loop`.
  ///
  /// - Parameter deadline: nanoseconds from ``add(_:)`` to expiry.
  public init(on loop: EventLoop, deadline: UInt64 = HoldQueue.defaultDeadline) {
    self.deadline = deadline
    timer = LoopTimer(on: loop) { [unowned self] in expireDue(now: Clock.now) }
  }

  /// Holds that still wait for their consumers.
  public var pending: Int { entries.count { $0.hold.isPending } }

  /// When the first hold expires unless it is released before, `.max` without one.
  package var nextExpiry: UInt64 { next }

  /// Watches a pending hold; one that is released already is ignored.
  public func add(_ hold: Hold) {
    guard hold.isPending else { return }
    entries.removeAll { !$0.hold.isPending }
    let now = Clock.now
    let (due, overflow) = now.addingReportingOverflow(deadline)
    entries.append(Entry(hold: hold, deadline: overflow ? .max : due))
    arm(now)
  }

  /// Has a watched hold expire at a time of the monotonic clock in nanoseconds, unless it does so
  /// before: somebody waits who must not wait long.
  public func shorten(_ hold: Hold, to time: UInt64) {
    guard let at = entries.firstIndex(where: { $0.hold === hold }), time < entries[at].deadline
    else { return }
    entries[at].deadline = time
    arm(Clock.now)
  }

  /// Expires every hold at once, as when the device is reset or its rings stop.
  public func expireAll() {
    let all = entries
    entries = []
    next = .max
    timer?.disarm()
    for entry in all { entry.hold.expire() }
  }

  private func arm(_ now: UInt64) {
    let first = entries.reduce(UInt64.max) { min($0, $1.deadline) }
    guard first < next else { return }
    next = first
    timer?.arm(after: first > now ? first &- now : 1)
  }

  private func expireDue(now: UInt64) {
    next = .max
    let due = entries.filter { $0.deadline <= now && $0.hold.isPending }
    entries.removeAll { $0.deadline <= now || !$0.hold.isPending }
    arm(now)
    for entry in due where entry.hold.isPending {
      expired &+= 1
      entry.hold.expire()
      onExpiry?(entry.hold)
    }
  }
}
