import Linux

/// Ends holds that consumers did not release in time.
///
/// All holds have the same deadline, so they expire in the order in which they were made.
public final class HoldQueue {
  private struct Entry {
    let hold: Hold
    let deadline: UInt64
  }

  /// Nanoseconds until a hold expires.
  public let deadline: UInt64
  /// Holds that expired before their consumers released them.
  public private(set) var expired: UInt64 = 0
  private var entries: [Entry] = []
  private var timer: LoopTimer?

  /// The default deadline in nanoseconds: Linux guests stop waiting after 50 ms.
  public static let defaultDeadline: UInt64 = 40_000_000

  /// Makes a queue whose timer runs on `loop`.
  ///
  /// - Parameter deadline: nanoseconds from ``add(_:)`` to expiry.
  public init(on loop: EventLoop, deadline: UInt64 = HoldQueue.defaultDeadline) throws(Errno) {
    self.deadline = deadline
    timer = try LoopTimer(on: loop) { [unowned self] in expireDue(now: Clock.now) }
  }

  /// Holds that still wait for their consumers.
  public var pending: Int { entries.count { $0.hold.isPending } }

  /// Watches a pending hold; one that is released already is ignored.
  public func add(_ hold: Hold) {
    guard hold.isPending else { return }
    entries.removeAll { !$0.hold.isPending }
    entries.append(Entry(hold: hold, deadline: Clock.now &+ deadline))
    if let timer, !timer.isArmed { timer.arm(after: deadline) }
  }

  /// Expires every hold at once, as when the device is reset or its rings stop.
  public func expireAll() {
    let all = entries
    entries = []
    timer?.disarm()
    for entry in all { entry.hold.expire() }
  }

  private func expireDue(now: UInt64) {
    let due = entries.filter { $0.deadline <= now }
    entries.removeAll { $0.deadline <= now || !$0.hold.isPending }
    if let next = entries.first { timer?.arm(after: next.deadline &- now) }
    for entry in due where entry.hold.isPending {
      expired &+= 1
      entry.hold.expire()
    }
  }
}
