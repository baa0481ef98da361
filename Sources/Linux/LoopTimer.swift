/// A timer served by an ``EventLoop``, to the millisecond; it costs no system calls of its own.
public final class LoopTimer {
  private let loop: EventLoop
  private let handler: () -> Void
  private var interval: UInt64 = 0
  /// When it runs out, in nanoseconds of ``Clock``; `.max` while it is not armed.
  private(set) var due = UInt64.max

  /// A disarmed timer whose expirations call `handler` in the loop's thread.
  public init(on loop: EventLoop, _ handler: @escaping () -> Void) {
    self.loop = loop
    self.handler = handler
    loop.add(self)
  }

  deinit { loop.remove(self) }

  /// Whether the timer is armed; a single shot clears it before its handler runs.
  public var isArmed: Bool { due < .max }

  /// Arms the timer in nanoseconds from now, once or at an interval in nanoseconds.
  public func arm(after nanoseconds: UInt64, every interval: UInt64 = 0) {
    self.interval = interval
    let (sum, overflow) = Clock.now.addingReportingOverflow(nanoseconds)
    due = overflow ? .max - 1 : sum
  }

  /// Stops the timer.
  public func disarm() { due = .max }

  /// Runs the handler; expirations that were missed meanwhile count as one.
  func fire(_ now: UInt64) {
    due = interval > 0 ? max(due &+ interval, now &+ 1) : .max
    handler()
  }
}
