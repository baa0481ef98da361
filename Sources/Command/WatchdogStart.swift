import Glibc
import Linux
import Logging

extension Watchdog {
  /// Looks after a loop; starts in the loop's thread.
  ///
  /// A call that waits is interrupted after 2 s in any case. What asks the process to end while its
  /// loop does not turn (SIGTERM, SIGINT) ends it in any case too.
  ///
  /// - Parameter seconds: after so long a turn the process ends by itself; 0 for never.
  /// - Throws: `EMFILE` of eventfd(2), `EAGAIN` of pthread_create(3).
  package static func endingTheProcess(
    over loop: EventLoop, after seconds: UInt32, _ log: Logger
  ) throws(Errno) -> Watchdog {
    var times = Watchdog.Times()
    times.end = seconds > 0 ? UInt64(seconds) * 1_000_000_000 : .max
    times.poke = min(times.poke, times.end)
    return try Watchdog(over: loop, times: times, endingFor: [SIGTERM, SIGINT]) { event in
      switch event {
      case .late(let place): log.error("\(place); what waits there is interrupted")
      case .lost(let place):
        log.critical("\(place); this process ends")
        _exit(1)
      }
    }
  }
}
