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
/// one thread wait.
///
/// The threads must exist before a filter of system calls that permits none; without them
/// descriptors are closed at once.
public enum Closers {
  /// Nanoseconds that a close may take.
  public static let patience: UInt64 = 1_000_000_000

  private struct Work {
    var waiting: [(fd: CInt, sender: Sender)] = []
    /// What each thread closes, and since when.
    var busy: [(sender: Sender, since: UInt64)?] = []
    var bell: CInt = -1
  }

  private final class Worker: Sendable {
    let thread: Thread
    init(_ index: Int, _ bell: CInt) throws(Errno) {
      thread = try Thread("closer") { Closers.serve(index, bell) }
    }
  }

  private static let work = Locked(Work())
  private static let workers = Locked<[Worker]>([])

  /// Starts the threads; they live as long as the process.
  public static func start(threads: Int = 4) throws(Errno) {
    guard workers.withLock({ $0.isEmpty }) else { return }
    let bell = try check(ph_semaphore(), "eventfd")
    work.withLock {
      $0.bell = bell
      $0.busy = Array(repeating: nil, count: threads)
      $0.waiting.reserveCapacity(256)
    }
    for index in 0..<threads {
      let worker = try Worker(index, bell)
      workers.withLock { $0.append(worker) }
    }
  }

  /// Closes a descriptor; the caller waits only for what this process opened itself.
  public static func close(_ fd: CInt, from sender: Sender) {
    guard sender != .ourselves else {
      _ = Glibc.close(fd)
      return
    }
    let bell = work.withLock { (work: inout Work) -> CInt in
      if work.bell >= 0 { work.waiting.append((fd, sender)) }
      return work.bell
    }
    if bell >= 0 {
      _ = ph_eventfd_signal(bell)
    } else {
      closeHere(fd)
    }
  }

  /// Whether something from this sender has been closing for too long.
  public static func isStuck(_ sender: Sender) -> Bool {
    work.withLock { work in
      guard work.busy.contains(where: { $0?.sender == sender }) else { return false }
      let now = Clock.now
      return work.busy.contains { $0.map { $0.sender == sender && isLate($0.since, now) } ?? false }
    }
  }

  /// Threads that have been closing something for too long, and descriptors that wait for one.
  public static var state: (stuck: Int, waiting: Int) {
    work.withLock { work in
      let now = Clock.now
      return (work.busy.count { $0.map { isLate($0.since, now) } ?? false }, work.waiting.count)
    }
  }

  private static func isLate(_ since: UInt64, _ now: UInt64) -> Bool {
    now > since && now - since > patience
  }

  private static func serve(_ index: Int, _ bell: CInt) {
    while ph_semaphore_wait(bell) == 0 {
      let next = work.withLock { (work: inout Work) -> CInt? in
        guard !work.waiting.isEmpty else { return nil }
        let (fd, sender) = work.waiting.removeFirst()
        work.busy[index] = (sender, Clock.now)
        return fd
      }
      guard let next else { continue }
      closeHere(next)
      work.withLock { $0.busy[index] = nil }
    }
  }

  private static func closeHere(_ fd: CInt) {
    ph_do_not_linger(fd)
    _ = Glibc.close(fd)
  }
}
