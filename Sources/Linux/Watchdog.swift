import CLinux
import Glibc
import Synchronization

/// What an event loop's thread shows of itself to its ``Watchdog``.
public final class LoopPulse: Sendable {
  /// Even while the loop waits for events, odd while it serves them.
  private let beats = Atomic<UInt64>(0)
  /// The descriptor whose event is served; -1 for timers and the end of a turn.
  private let served = Atomic<CInt>(-1)
  /// The watchdog's eventfd while it sleeps, because nothing happens; else -1.
  private let sleeper = Atomic<CInt>(-1)

  func beginTurn() {
    beats.wrappingAdd(1, ordering: .sequentiallyConsistent)
    let event = sleeper.load(ordering: .sequentiallyConsistent)
    if event >= 0 {
      sleeper.store(-1, ordering: .relaxed)
      _ = ph_eventfd_signal(event)
    }
  }
  func endTurn() { beats.wrappingAdd(1, ordering: .relaxed) }
  func serves(_ fd: CInt) { served.store(fd, ordering: .relaxed) }

  /// The turn that is under way; nil while the loop waits.
  var turn: UInt64? {
    let now = beats.load(ordering: .relaxed)
    return now & 1 == 1 ? now : nil
  }
  var descriptor: CInt { served.load(ordering: .relaxed) }

  /// Has the next turn signal an eventfd; false if there is one already, and it may be missed.
  func wakeMe(by event: CInt) -> Bool {
    sleeper.store(event, ordering: .sequentiallyConsistent)
    return beats.load(ordering: .sequentiallyConsistent) & 1 == 0
  }
}

/// A thread that notices when an event loop does not turn, because a call waits that must not.
///
/// It pokes the loop's thread with a signal whose handler only counts: a call that waits
/// interruptibly ends with `EINTR`, and what it was to deliver counts as not delivered. A loop that
/// does not come back even then has its process end, for a service manager to start another one.
public final class Watchdog: Sendable {
  /// When it does what, in nanoseconds of time in which this process ran: one that is stopped by
  /// SIGSTOP, a debugger or a suspended machine is not late.
  public struct Times: Sendable {
    /// Between two looks.
    public var interval: UInt64 = 1_000_000_000
    /// A turn that lasts this long is interrupted, and again at each look.
    public var poke: UInt64 = 2_000_000_000
    /// A turn that lasts this long ends the process.
    public var end: UInt64 = 30_000_000_000

    /// The defaults.
    public init() {}
  }

  /// What it has to tell, in its own thread.
  public enum Event: Sendable {
    /// The loop was interrupted; told once for each turn.
    case late(String)
    /// The process is to end now: the loop is lost, or was asked to end meanwhile.
    case lost(String)
  }

  private struct Subject: Sendable {
    let pulse: LoopPulse
    let thread: CInt
    /// `/proc/self/task/TID/syscall`, proc_pid_syscall(5).
    let place: SharedFD?
    let times: Times
    let signals: [CInt]
    let stop: SharedFD
    let wake: SharedFD
    let tell: @Sendable (Event) -> Void
  }

  private let thread: Thread
  private let stop: SharedFD

  /// Watches the loop that the calling thread runs.
  ///
  /// - Parameters:
  ///   - loop: which one.
  ///   - times: when it does what.
  ///   - signals: blocked signals that ask the loop to end; one of them that is pending while the
  ///     loop is late ends the process.
  ///   - tell: called in the watchdog's thread; must not wait.
  public init(
    over loop: EventLoop, times: Times = Times(), endingFor signals: [CInt] = [],
    _ tell: @escaping @Sendable (Event) -> Void
  ) throws(Errno) {
    try check(ph_prepare_poke(), "sigaction(SIGURG)")
    let thread = ph_gettid()
    let stop = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    self.stop = stop
    var place: SharedFD?
    do throws(Errno) {
      place = SharedFD(try OwnedFD.open("/proc/self/task/\(thread)/syscall", O_RDONLY))
    } catch { place = nil }
    let subject = Subject(
      pulse: loop.pulse, thread: thread, place: place,
      times: times, signals: signals, stop: stop,
      wake: SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd"))), tell: tell)
    self.thread = try Thread("watchdog") { Self.watch(subject) }
  }

  deinit { _ = ph_eventfd_signal(stop.raw) }

  /// How often the calling thread was interrupted: a call during which that changed has waited.
  public static var pokes: UInt32 { ph_pokes() }

  private static func watch(_ subject: Subject) {
    let times = subject.times
    var last: UInt64?
    var late: UInt64 = 0
    var isTold = false
    var before = Clock.now
    let interval = CInt(clamping: times.interval / 1_000_000)
    while ph_poll2(subject.stop.raw, -1, interval) == 0 {
      // A loop at rest costs nothing: the turn that ends the rest wakes this thread.
      if subject.pulse.turn == nil, subject.pulse.wakeMe(by: subject.wake.raw) {
        guard ph_poll2(subject.stop.raw, subject.wake.raw, -1) & 1 == 0 else { return }
        _ = ph_drain(subject.wake.raw)
        before = Clock.now
        (last, late, isTold) = (nil, 0, false)
        continue
      }
      let now = Clock.now
      // Whatever is longer was spent with the process not running.
      let passed = min(now &- before, times.interval &+ times.interval / 2)
      before = now
      let turn = subject.pulse.turn
      guard let turn, turn == last else {
        last = turn
        late = 0
        isTold = false
        continue
      }
      late &+= passed
      guard late >= times.poke else { continue }
      let place = place(subject, late)
      if late >= times.end || subject.signals.contains(where: { ph_is_pending($0) == 1 }) {
        subject.tell(.lost(place))
      } else if !isTold {
        isTold = true
        subject.tell(.late(place))
      }
      _ = ph_poke(subject.thread)
    }
  }

  /// Where the loop's thread is, for the log.
  private static func place(_ subject: Subject, _ late: UInt64) -> String {
    let served = subject.pulse.descriptor
    let whom = served < 0 ? "a timer or the end of a turn" : "descriptor \(served)"
    var text = "the event loop has not turned for \(late / 1_000_000_000) s: it serves \(whom)"
    guard let place = subject.place else { return text }
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = bytes.withUnsafeMutableBytes { pread(place.raw, $0.baseAddress, $0.count, 0) }
    guard count > 0 else { return text }
    let words = String(decoding: bytes[..<count], as: UTF8.self).split { " \n".contains($0) }
    if let call = words.first, UInt32(call) != nil, words.count > 1 {
      text += ", in system call \(call) with \(words[1])"
    } else if let state = words.first {
      text += ", \(state)"
    }
    return text
  }
}
