import CLinux
import Glibc
import Linux
import Testing

@Suite struct EventLoopTests {
  @Test func aHandlerRunsWhileThereIsSomethingToRead() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    var calls = 0
    try loop.watch(event.fd.raw, for: .readable) { events in
      #expect(events == .readable)
      calls += 1
    }
    try loop.turn(timeout: 0)
    #expect(calls == 0)
    event.signal()
    for _ in 0..<3 { try loop.turn(timeout: 0) }
    #expect(calls == 3)
    #expect(event.drain() == 1)
    try loop.turn(timeout: 0)
    #expect(calls == 3)
  }

  @Test func aStaleTokenTouchesNobodyElse() throws {
    let loop = try EventLoop()
    let first = try EventFD()
    let second = try EventFD()
    var calls = 0
    let stale = try loop.watch(first.fd.raw, for: .readable) { _ in calls += 100 }
    loop.unwatch(stale)
    // Takes the place in the table that has become free.
    let fresh = try loop.watch(second.fd.raw, for: .readable) { _ in calls += 1 }
    #expect(stale != fresh)
    loop.unwatch(stale)
    try loop.change(stale, to: .writable)
    second.signal()
    first.signal()
    try loop.turn(timeout: 0)
    #expect(calls == 1)
  }

  @Test func whatWasFetchedForAnUnwatchedDescriptorIsDropped() throws {
    let loop = try EventLoop()
    let events = [SharedFD(try EventFD().fd.duplicate()), SharedFD(try EventFD().fd.duplicate())]
    defer { withExtendedLifetime(events) {} }
    var tokens: [EventLoop.Token] = []
    var calls = 0
    for (index, event) in events.enumerated() {
      tokens.append(
        try loop.watch(event.raw, for: .readable) { [unowned loop] _ in
          calls += 1
          loop.unwatch(tokens[1 - index])
        })
    }
    for event in events { signal(event) }
    try loop.turn(timeout: 0)
    #expect(calls == 1)
  }

  @Test func aDescriptorThatCannotBeWatchedLeavesNoTrace() throws {
    let loop = try EventLoop()
    let file = try MemFD.create("file", size: 4096)
    #expect(throws: Errno(EPERM, "epoll_ctl")) {
      _ = try loop.watch(file.raw, for: .readable) { _ in }
    }
    let event = try EventFD()
    var called = false
    try loop.watch(event.fd.raw, for: .readable) { _ in called = true }
    event.signal()
    try loop.turn(timeout: 0)
    #expect(called)
  }

  @Test func aPeerThatLeftIsReported() throws {
    let loop = try EventLoop()
    let (ours, theirs) = try pair(.stream)
    var seen: EventLoop.Events = []
    try loop.watch(ours.raw, for: .readable) { seen = $0 }
    theirs.close()
    try loop.turn(timeout: 1000)
    #expect(seen.contains(.hangUp))
  }

  @Test func workAtTheEndOfATurnComesAfterItsEvents() throws {
    let loop = try EventLoop()
    let event = try EventFD()
    var order: [String] = []
    loop.everyTurn { order.append("end") }
    try loop.watch(event.fd.raw, for: .readable) { _ in order.append("event") }
    event.signal()
    try loop.turn(timeout: 0)
    #expect(order == ["event", "end"])
    #expect(loop.turns == 1)
  }

  @Test func anotherThreadEndsTheLoop() throws {
    let loop = try EventLoop()
    let stopper = loop.stopper
    let thread = try Thread("stopper") { stopper.stop() }
    try loop.run()
    _ = consume thread
  }

  @Test func aTimerFiresOnceOrAgainAndAgain() throws {
    let loop = try EventLoop()
    var once = 0
    var often = 0
    let single = LoopTimer(on: loop) { once += 1 }
    let repeating = LoopTimer(on: loop) { often += 1 }
    single.arm(after: 1)
    repeating.arm(after: 1, every: 1_000_000)
    #expect(single.isArmed && repeating.isArmed)
    let deadline = Clock.now + 10_000_000_000
    while often < 3 || once < 1, Clock.now < deadline { try loop.turn(timeout: 100) }
    #expect(once == 1 && often >= 3)
    #expect(!single.isArmed && repeating.isArmed)
    repeating.disarm()
    let before = often
    usleep(3000)
    try loop.turn(timeout: 0)
    #expect(often == before)
  }

  @Test func aTimerThatIsArmedInItsHandlerStaysArmed() throws {
    let loop = try EventLoop()
    var calls = 0
    var timer: LoopTimer?
    timer = LoopTimer(on: loop) {
      calls += 1
      if calls < 3 { timer?.arm(after: 1) }
    }
    timer?.arm(after: 1)
    let deadline = Clock.now + 10_000_000_000
    while calls < 3, Clock.now < deadline { try loop.turn(timeout: 100) }
    #expect(calls == 3)
    timer = nil
    try loop.turn(timeout: 0)
  }

  @Test func aTimerThatIsGoneDoesNotFire() throws {
    let loop = try EventLoop()
    var calls = 0
    var timer: LoopTimer? = LoopTimer(on: loop) { calls += 1 }
    timer?.arm(after: 1)
    usleep(1000)
    timer = nil
    try loop.turn(timeout: 0)
    #expect(calls == 0)
  }

  /// Whoever was kept from turning does not make up for it by a storm of calls.
  @Test func whatATimerMissedCountsAsOnce() throws {
    let loop = try EventLoop()
    let interval: UInt64 = 10_000_000
    var calls = 0
    let timer = LoopTimer(on: loop) { calls += 1 }
    timer.arm(after: 1, every: interval)
    usleep(500_000)
    let start = Clock.now
    for _ in 0..<40 { try loop.turn(timeout: 0) }
    let passed = Int((Clock.now - start) / interval)
    #expect(calls >= 1 && calls <= 3 + passed)
    withExtendedLifetime(timer) {}
  }

  /// The loop sleeps until a timer is due, and no shorter, after which it would turn in vain.
  @Test func oneTurnServesATimer() throws {
    let loop = try EventLoop()
    var calls = 0
    let timer = LoopTimer(on: loop) { calls += 1 }
    for round in 1...20 {
      timer.arm(after: 2_700_000)
      while calls < round { try loop.turn() }
    }
    #expect(loop.turns <= 40)
  }

  /// As the watchdog's, which may come when the loop waits for events already.
  @Test func aSignalDoesNotEndTheLoop() throws {
    try check(ph_prepare_poke(), "sigaction(SIGURG)")
    let loop = try EventLoop()
    let target = ph_gettid()
    let before = ph_pokes()
    let isOver = Locked(false)
    let poker = try Thread("poker") {
      while !isOver.withLock({ $0 }) {
        _ = ph_poke(target)
        usleep(1000)
      }
    }
    let deadline = Clock.now + 20_000_000_000
    var failure: Errno?
    do throws(Errno) {
      while ph_pokes() &- before < 20, Clock.now < deadline { try loop.turn(timeout: 100) }
    } catch { failure = error }
    isOver.withLock { $0 = true }
    _ = consume poker
    #expect(failure == nil && ph_pokes() &- before >= 20)
  }
}
