import CLinux
import Glibc
import Linux
import Testing

@Suite struct WatchdogTests {
  private static var fast: Watchdog.Times {
    var times = Watchdog.Times()
    times.interval = 20_000_000
    times.poke = 60_000_000
    times.end = 60_000_000_000
    return times
  }

  /// An eventfd whose counter is full and that waits, as a front-end can make one.
  private static func full() throws -> SharedFD {
    let event = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    try UnixSocket.setNonblocking(event.raw, false)
    var most = UInt64.max - 1
    #expect(write(event.raw, &most, 8) == 8)
    return event
  }

  @Test func aWriteThatWaitsIsInterrupted() throws {
    let loop = try EventLoop()
    let event = try Self.full()
    let bell = try EventFD()
    var outcome: (Int, CInt)?
    try loop.watch(bell.fd.raw, for: .readable) { [unowned loop] _ in
      bell.drain()
      // Without the look for room that Foreign.signal(_:) has before it: the owner was faster.
      var one: UInt64 = 1
      outcome = (write(event.raw, &one, 8), errno)
      loop.stop()
    }
    bell.signal()
    let told = Locked<[String]>([])
    let dog = try Watchdog(over: loop, times: Self.fast) { event in
      if case .late(let place) = event { told.withLock { $0.append(place) } }
    }
    try loop.run()
    withExtendedLifetime(dog) {}
    #expect(outcome?.0 == -1 && outcome?.1 == EINTR)
    let places = told.withLock { $0 }
    #expect(places.count == 1)
    #expect(places.first?.contains("descriptor \(bell.fd.raw)") == true)
  }

  @Test func aLoopThatWaitsForEventsIsLeftAlone() throws {
    let loop = try EventLoop()
    let told = Locked(0)
    let dog = try Watchdog(over: loop, times: Self.fast) { _ in told.withLock { $0 += 1 } }
    try loop.turn(timeout: 300)
    withExtendedLifetime(dog) {}
    #expect(told.withLock { $0 } == 0)
  }

  /// By SIGSTOP, as a debugger or a suspended session does: the time does not count.
  @Test func aProcessThatWasStoppedIsNotLate() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      var times = WatchdogTests.fast
      times.poke = 2_000_000_000
      times.end = 2_000_000_000
      let loop = try EventLoop()
      let bell = try EventFD()
      bell.signal()
      try loop.watch(bell.fd.raw, for: .readable) { [unowned loop, times] _ in
        bell.drain()
        // The watchdog has looked at this turn before.
        usleep(200_000)
        let script = "sleep 3; kill -CONT \(getpid())"
        guard let waker = try? ChildProcess(["sh", "-c", script]) else { _exit(3) }
        let before = Clock.now
        kill(getpid(), SIGSTOP)
        usleep(200_000)
        // Else it was not stopped, and this proves nothing.
        if Clock.now - before < times.end { _exit(4) }
        withExtendedLifetime(waker) {}
        loop.stop()
      }
      let dog = try Watchdog(over: loop, times: times) { _ in _exit(9) }
      try loop.run()
      withExtendedLifetime(dog) {}
      _exit(7)
    }
  }

  @Test func aLostLoopEndsTheProcess() async throws {
    await #expect(processExitsWith: .exitCode(9)) {
      let loop = try EventLoop()
      let bell = try EventFD()
      bell.signal()
      try loop.watch(bell.fd.raw, for: .readable) { _ in while true { pause() } }
      var times = WatchdogTests.fast
      times.end = 200_000_000
      let dog = try Watchdog(over: loop, times: times) {
        if case .lost = $0 { _exit(9) }
      }
      try loop.run()
      withExtendedLifetime(dog) {}
    }
  }
}

/// Eventfds that their owner may change at any time.
@Suite struct ForeignEventTests {
  @Test func aFullCounterIsNotWrittenTo() throws {
    let event = try EventFD()
    try UnixSocket.setNonblocking(event.fd.raw, false)
    var most = UInt64.max - 1
    #expect(write(event.fd.raw, &most, 8) == 8)
    #expect(Foreign.signal(event.fd.raw))
    #expect(event.drain() == UInt64.max - 1)
  }

  @Test func anEmptyCounterIsNotWaitedFor() throws {
    let event = try EventFD()
    try UnixSocket.setNonblocking(event.fd.raw, false)
    Foreign.drain(event.fd.raw)
    #expect(Foreign.signal(event.fd.raw))
    #expect(event.drain() == 1)
  }

  @Test func onlyEventfdsAreEventfds() throws {
    let event = try EventFD()
    #expect(Foreign.isEventFD(event.fd.raw))
    var pipe: [CInt] = [-1, -1]
    #expect(Glibc.pipe(&pipe) == 0)
    let (end, _) = try pair(.stream)
    let file = try MemFD.create("file", size: 8)
    let poll = epoll_create1(0)
    defer { for fd in pipe + [poll] { close(fd) } }
    #expect(!Foreign.isEventFD(pipe[0]) && !Foreign.isEventFD(pipe[1]))
    #expect(!Foreign.isEventFD(end.raw) && !Foreign.isEventFD(file.raw))
    #expect(!Foreign.isEventFD(poll) && !Foreign.isEventFD(-1))
    #expect(Foreign.isAnonymous(poll))
  }
}
