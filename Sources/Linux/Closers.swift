import CLinux
import Glibc

/// Who sent a descriptor: one connection to somebody outside, or this process itself.
public struct Sender: Hashable, Sendable {
  private let number: UInt64

  /// What this process opened itself; its close never waits.
  public static let ourselves = Sender(number: 0)

  private static let last = Locked<UInt64>(0)

  private init(number: UInt64) { self.number = number }

  /// A new connection.
  public static func connection() -> Sender {
    Sender(
      number: last.withLock {
        $0 &+= 1
        return $0
      })
  }
}

/// Closes descriptors that came from outside, in threads of its own.
///
/// The last close of a file may wait for somebody else: a socket that lingers (socket(7),
/// `SO_LINGER`) for its peer, a file on FUSE for its server, a Unix socket for both if they are
/// among what nobody received from it. So no descriptor from outside is closed by the thread that
/// serves others. A thread that waits for longer than ``patience`` makes ``isStuck(_:)`` true for
/// whoever sent what it closes: that connection is to be ended, so that nobody can have more than
/// one thread wait. After twice that time the thread is interrupted, which ends the lingering of
/// sockets, and of all that hang on the same descriptor, but not the waiting for FUSE.
///
/// What waits for a thread keeps its number, and numbers are few. So ``Listener`` takes nobody while
/// too many wait (``isCrowded``, ``isFull``), and whoever has more than a few of them then is stuck
/// too.
///
/// The threads must exist before a filter of system calls that permits none; without them
/// descriptors are closed at once.
public enum Closers {
  /// Nanoseconds that a close may take.
  public static let patience: UInt64 = 1_000_000_000
  /// Descriptors that may wait before newcomers of a crowd have to wait too: one message brings 253.
  static let crowd = 256
  /// Descriptors of one sender that may wait while there is a crowd: a front-end's memory and rings.
  static let share = 32
  /// Late senders that are remembered: those that still have a connection are far fewer.
  private static let remembered = 64

  private struct Busy {
    let sender: Sender
    let since: UInt64
    let thread: CInt
  }

  private struct Work {
    var waiting: [(fd: CInt, sender: Sender)] = []
    /// What each thread closes, and since when.
    var busy: [Busy?] = []
    /// Whose descriptors took so long that the thread was interrupted, the newest last.
    var late: [Sender] = []
    /// The thread that looks after the others sleeps until there is something to close.
    var isUnwatched = true
    var bell: CInt = -1
    var alarm: CInt = -1

    func lateCount(_ now: UInt64) -> Int {
      busy.count { $0.map { isLate($0.since, now) } ?? false }
    }
  }

  private final class Worker: Sendable {
    let thread: Thread
    init(_ index: Int, _ bell: CInt) throws(Errno) {
      thread = try Thread("closer") { Closers.serve(index, bell) }
    }
    init(watching alarm: CInt) throws(Errno) {
      thread = try Thread("closers") { Closers.watch(alarm) }
    }
  }

  private static let work = Locked(Work())
  private static let workers = Locked<[Worker]>([])

  /// Starts the threads, and one that looks after them; they live as long as the process.
  ///
  /// - Throws: `EMFILE` and others of eventfd(2), `EAGAIN` of pthread_create(3).
  public static func start(threads: Int = 4) throws(Errno) {
    guard workers.withLock({ $0.isEmpty }) else { return }
    // Before the threads, which inherit the mask.
    try check(ph_prepare_poke(), "sigaction(SIGURG)")
    let bell = try check(ph_semaphore(), "eventfd")
    let alarm = try check(ph_semaphore(), "eventfd")
    work.withLock {
      $0.bell = bell
      $0.alarm = alarm
      $0.busy = Array(repeating: nil, count: threads)
      $0.waiting.reserveCapacity(crowd)
    }
    for index in 0..<threads {
      let worker = try Worker(index, bell)
      workers.withLock { $0.append(worker) }
    }
    let watcher = try Worker(watching: alarm)
    workers.withLock { $0.append(watcher) }
  }

  /// Closes a descriptor; the caller waits only for what this process opened itself.
  public static func close(_ fd: CInt, from sender: Sender) {
    guard sender != .ourselves else {
      _ = Glibc.close(fd)
      return
    }
    let (bell, alarm) = work.withLock { (work: inout Work) -> (CInt, CInt) in
      guard work.bell >= 0 else { return (-1, -1) }
      work.waiting.append((fd, sender))
      defer { work.isUnwatched = false }
      return (work.bell, work.isUnwatched ? work.alarm : -1)
    }
    guard bell >= 0 else { return closeHere(fd) }
    _ = ph_eventfd_signal(bell)
    if alarm >= 0 { _ = ph_eventfd_signal(alarm) }
  }

  /// Whether something from this sender has been closing for too long, or too much of it waits.
  public static func isStuck(_ sender: Sender) -> Bool {
    work.withLock { work in
      if work.late.contains(sender) { return true }
      if work.waiting.count >= crowd, work.waiting.count(where: { $0.sender == sender }) > share {
        return true
      }
      guard work.busy.contains(where: { $0?.sender == sender }) else { return false }
      let now = Clock.now
      return work.busy.contains { $0.map { $0.sender == sender && isLate($0.since, now) } ?? false }
    }
  }

  /// So much waits to be closed, or every thread for somebody, that nobody is to be taken of whom
  /// many come.
  public static var isCrowded: Bool {
    work.withLock { work in
      work.waiting.count >= crowd
        || (!work.waiting.isEmpty && work.lateCount(Clock.now) == work.busy.count)
    }
  }

  /// A quarter of all descriptors that this process may have wait to be closed: nobody is to be
  /// taken.
  public static var isFull: Bool {
    let ordinary = Int(ph_ordinary_descriptors())
    return state.waiting >= max(crowd, ordinary / 4)
  }

  /// Threads that have been closing something for too long, and descriptors that wait for one.
  public static var state: (stuck: Int, waiting: Int) {
    work.withLock { work in (work.lateCount(Clock.now), work.waiting.count) }
  }

  private static func isLate(_ since: UInt64, _ now: UInt64) -> Bool {
    now > since && now - since > patience
  }

  private static func mustBeInterrupted(_ since: UInt64, _ now: UInt64) -> Bool {
    now > since && now - since > 2 * patience
  }

  private static func serve(_ index: Int, _ bell: CInt) {
    let thread = ph_gettid()
    while ph_semaphore_wait(bell) == 0 {
      let next = work.withLock { (work: inout Work) -> CInt? in
        guard !work.waiting.isEmpty else { return nil }
        let (fd, sender) = work.waiting.removeFirst()
        work.busy[index] = Busy(sender: sender, since: Clock.now, thread: thread)
        return fd
      }
      guard let next else { continue }
      closeHere(next)
      work.withLock { work in
        // It was interrupted, and not only slow, as the end of much memory can be. Whoever said
        // nothing meanwhile is told when he does.
        if let done = work.busy[index], mustBeInterrupted(done.since, Clock.now),
          !work.late.contains(done.sender)
        {
          if work.late.count == remembered { work.late.removeFirst() }
          work.late.append(done.sender)
        }
        work.busy[index] = nil
      }
    }
  }

  /// Interrupts threads that wait for too long: a linger ends with any signal. Sleeps while there is
  /// nothing to close.
  private static func watch(_ alarm: CInt) {
    while ph_semaphore_wait(alarm) == 0 {
      var isOver = false
      while !isOver {
        usleep(UInt32(patience / 2000))
        isOver = work.withLock { (work: inout Work) in
          let now = Clock.now
          for case let busy? in work.busy where mustBeInterrupted(busy.since, now) {
            _ = ph_poke(busy.thread)
          }
          work.isUnwatched = work.waiting.isEmpty && work.busy.allSatisfy { $0 == nil }
          return work.isUnwatched
        }
      }
    }
  }

  private static func closeHere(_ fd: CInt) {
    ph_do_not_linger(fd)
    _ = Glibc.close(fd)
  }
}
