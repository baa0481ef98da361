import Command
import Glibc
import Linux
import Logging
import Testing

/// `--watchdog`.
@Suite struct WatchdogStartTests {
  /// 0 means that the process does not end by itself: what waits is interrupted all the same.
  @Test func withoutAnEndWhatWaitsIsInterrupted() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      alarm(60)
      let loop = try EventLoop()
      let event = try EventFD()
      try UnixSocket.setNonblocking(event.fd.raw, false)
      var most = UInt64.max - 1
      guard write(event.fd.raw, &most, 8) == 8 else { exit(1) }
      let bell = try EventFD()
      bell.signal()
      try loop.watch(bell.fd.raw, for: .readable) { _ in
        var one: UInt64 = 1
        // The counter is full, and its owner has it wait.
        _exit(write(event.fd.raw, &one, 8) == -1 && errno == EINTR ? 7 : 2)
      }
      let dog = try Watchdog.endingTheProcess(over: loop, after: 0, Logger(label: "test"))
      try loop.run()
      withExtendedLifetime(dog) {}
    }
  }
}
