import CLinux
import Glibc

/// One thread's epoll(7) loop: descriptors, timers, and work at the end of a turn.
///
/// The loop belongs to the thread that runs it; only ``Stopper`` may be used elsewhere.
public final class EventLoop {
  /// What a descriptor is watched for; errors and hang-ups are always reported.
  public struct Events: OptionSet, Sendable {
    /// The `EPOLL*` bits of epoll_ctl(2).
    public let rawValue: UInt32
    /// Wraps `EPOLL*` bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// There is something to read.
    public static let readable = Events(rawValue: ph_EPOLLIN)
    /// There is room to write.
    public static let writable = Events(rawValue: ph_EPOLLOUT)
    /// An error is pending.
    public static let error = Events(rawValue: ph_EPOLLERR)
    /// The peer is gone.
    public static let hangUp = Events(rawValue: ph_EPOLLHUP)
    /// The peer of a stream socket sends nothing any more.
    public static let readHangUp = Events(rawValue: ph_EPOLLRDHUP)
    /// Only what is new is reported, and nothing needs to be read for it to be reported again:
    /// for counters whose value does not matter.
    public static let edgeTriggered = Events(rawValue: ph_EPOLLET)
  }

  /// Names one watch; a stale token is harmless.
  public struct Token: Equatable, Sendable {
    fileprivate let slot: UInt32
    fileprivate let tag: UInt32
  }

  private struct Slot {
    var fd: CInt = -1
    var tag: UInt32 = 0
    var handler: ((Events) -> Void)?
  }

  private let epoll: OwnedFD
  private var slots: [Slot] = []
  private var free: [UInt32] = []
  private var endOfTurn: [() -> Void] = []
  private var stopping = false
  /// Timers that exist; each takes itself out when it goes.
  private var timers: [Unmanaged<LoopTimer>] = []
  /// How often it woke up: stands still while there is nothing to do.
  public private(set) var turns: UInt64 = 0
  /// What a ``Watchdog`` looks at.
  public let pulse = LoopPulse()
  private let ready: UnsafeMutablePointer<epoll_event>
  private static let batch = 64
  private let stopEvent: SharedFD

  /// A loop with nothing to watch.
  public init() throws(Errno) {
    epoll = OwnedFD(adopting: try check(ph_epoll_create(), "epoll_create1"))
    stopEvent = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    ready = .allocate(capacity: Self.batch)
    ready.initialize(repeating: epoll_event(), count: Self.batch)
    try watch(stopEvent.raw, for: .readable) { [unowned self] _ in stopping = true }
  }

  deinit { ready.deallocate() }

  /// Calls `handler` in this loop's thread whenever the descriptor is ready.
  ///
  /// The descriptor stays its owner's: ``unwatch(_:)`` before closing it.
  @discardableResult
  public func watch(
    _ fd: CInt, for events: Events, _ handler: @escaping (Events) -> Void
  ) throws(Errno) -> Token {
    let index = free.popLast() ?? UInt32(slots.count)
    if index == slots.count { slots.append(Slot()) }
    let tag = slots[Int(index)].tag &+ 1
    let key = UInt64(tag) << 32 | UInt64(index)
    slots[Int(index)] = Slot(fd: fd, tag: tag, handler: handler)
    do throws(Errno) {
      try check(ph_epoll_ctl(epoll.raw, EPOLL_CTL_ADD, fd, events.rawValue, key), "epoll_ctl")
    } catch {
      slots[Int(index)].handler = nil
      free.append(index)
      throw error
    }
    return Token(slot: index, tag: tag)
  }

  /// Changes what a descriptor is watched for.
  public func change(_ token: Token, to events: Events) throws(Errno) {
    guard let slot = live(token) else { return }
    let key = UInt64(token.tag) << 32 | UInt64(token.slot)
    try check(
      ph_epoll_ctl(epoll.raw, EPOLL_CTL_MOD, slot.fd, events.rawValue, key), "epoll_ctl")
  }

  /// Stops watching; events already fetched for it are dropped.
  public func unwatch(_ token: Token) {
    guard let slot = live(token) else { return }
    _ = ph_epoll_ctl(epoll.raw, EPOLL_CTL_DEL, slot.fd, 0, 0)
    slots[Int(token.slot)].handler = nil
    free.append(token.slot)
  }

  private func live(_ token: Token) -> Slot? {
    guard Int(token.slot) < slots.count else { return nil }
    let slot = slots[Int(token.slot)]
    return slot.tag == token.tag && slot.handler != nil ? slot : nil
  }

  /// Runs `body` once per turn after all ready descriptors were served, for ever.
  public func everyTurn(_ body: @escaping () -> Void) { endOfTurn.append(body) }

  /// Serves descriptors until ``stop()`` or a ``Stopper`` ends it.
  public func run() throws(Errno) {
    stopping = false
    while !stopping { try turn() }
  }

  /// Waits once and serves what is ready.
  ///
  /// - Parameter timeout: milliseconds, -1 for as long as it takes.
  public func turn(timeout: CInt = -1) throws(Errno) {
    let count = try check(
      ph_epoll_wait(epoll.raw, ready, CInt(Self.batch), wait(timeout)), "epoll_wait")
    turns &+= 1
    pulse.beginTurn()
    defer { pulse.endTurn() }
    for i in 0..<Int(count) {
      let key = ready[i].data.u64
      let token = Token(
        slot: UInt32(truncatingIfNeeded: key), tag: UInt32(truncatingIfNeeded: key >> 32))
      guard let slot = live(token), let handler = slot.handler else { continue }
      pulse.serves(slot.fd)
      handler(Events(rawValue: ready[i].events))
    }
    pulse.serves(-1)
    fireTimers()
    for body in endOfTurn { body() }
  }

  func add(_ timer: LoopTimer) { timers.append(.passUnretained(timer)) }

  func remove(_ timer: LoopTimer) {
    timers.removeAll { $0.toOpaque() == Unmanaged.passUnretained(timer).toOpaque() }
  }

  /// When the next timer runs out, in nanoseconds of ``Clock``; `.max` without one.
  ///
  /// Tests of deadlines look at it, so that they need not measure how long something took.
  package var nextDue: UInt64 {
    timers.reduce(UInt64.max) { min($0, $1.takeUnretainedValue().due) }
  }

  /// The time until the next timer is due, in milliseconds rounded up, if that is sooner.
  private func wait(_ timeout: CInt) -> CInt {
    let due = nextDue
    guard due < .max else { return timeout }
    let now = Clock.now
    let left = due > now ? (due - now) / 1_000_000 + 1 : 0
    let milliseconds = CInt(clamping: left)
    return timeout < 0 ? milliseconds : min(timeout, milliseconds)
  }

  private func fireTimers() {
    var now: UInt64 = 0
    var index = 0
    // A handler may make and end timers; one that is passed over is due in the next turn.
    while index < timers.count {
      let timer = timers[index].takeUnretainedValue()
      index += 1
      guard timer.due < .max else { continue }
      if now == 0 { now = Clock.now }
      if timer.due <= now { timer.fire(now) }
    }
  }

  /// Ends ``run()`` after the present turn; call it in the loop's own thread.
  public func stop() { stopping = true }

  /// Ends a loop from any thread.
  public struct Stopper: Sendable {
    fileprivate let event: SharedFD
    /// Wakes the loop and ends its ``EventLoop/run()``.
    public func stop() { _ = ph_eventfd_signal(event.raw) }
  }

  /// A handle for other threads.
  public var stopper: Stopper { Stopper(event: stopEvent) }
}

extension EventLoop {
  /// Ends the loop with the next signal of ``Signals/descriptor(for:)`` that `takes` does not.
  ///
  /// - Parameter takes: gets the signal's number; whether it goes on.
  public func stop(
    on signals: borrowing OwnedFD, unless takes: @escaping (CInt) -> Bool = { _ in false }
  ) throws(Errno) {
    let fd = signals.raw
    // What the loop keeps must not keep the loop.
    try watch(fd, for: .readable) { [unowned self] _ in
      let number = Signals.next(from: fd)
      if number != 0, !takes(number) { stop() }
    }
  }
}
