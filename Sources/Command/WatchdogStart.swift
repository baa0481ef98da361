import Glibc
import Linux
import Logging

extension Watchdog {
  /// Ends the process when a loop does not turn, unless the time is 0; starts in the loop's thread.
  package static func endingTheProcess(
    over loop: EventLoop, after seconds: UInt32, _ log: Logger
  ) throws(Errno) -> Watchdog? {
    guard seconds > 0 else { return nil }
    var times = Watchdog.Times()
    times.end = UInt64(seconds) * 1_000_000_000
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
