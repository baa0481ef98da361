import Fences
import Glibc
import Linux
import Testing

@Suite struct HoldTests {
  @Test func theLastShareLetsTheAnswerGoOnce() {
    var answers = 0
    let hold = Hold { answers += 1 }
    hold.retain()
    hold.release()
    #expect(answers == 0 && hold.isPending)
    hold.release()
    #expect(answers == 1 && !hold.isPending)
    hold.release()
    hold.expire()
    #expect(answers == 1)
  }

  @Test func holdsExpireInTheirOrder() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 60_000_000)
    var order: [Int] = []
    let holds = (0..<4).map { number in Hold { order.append(number) } }
    // Due one after another, so that the timer has to be set again for each.
    for hold in holds {
      queue.add(hold)
      usleep(10_000)
    }
    holds[1].release()
    #expect(queue.pending == 3)
    try turn(loop) { order.count == 4 }
    #expect(order == [1, 0, 2, 3])
    #expect(queue.expired == 3)
    for hold in holds { hold.release() }
    #expect(order.count == 4)
  }

  @Test func aHoldExpiresThoughAllBeforeItHaveEnded() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 2_000_000)
    var expired = 0
    for round in 1...3 {
      queue.add(Hold { expired += 1 })
      try turn(loop) { expired == round }
    }
    #expect(queue.expired == 3 && queue.pending == 0)
  }

  @Test func aDeadlineIsKept() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 300_000_000)
    var isOver = false
    let start = Clock.now
    queue.add(Hold { isOver = true })
    try turn(loop) { isOver }
    let taken = Clock.now - start
    #expect(taken >= 300_000_000, "not before it is due")
    #expect(HoldQueue.defaultDeadline == 40_000_000, "Linux guests give up after 50 ms")
  }

  /// Whatever a machine's pace: the timer is set to the deadline, and to no multiple of it.
  @Test func theTimerIsSetToTheDeadline() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop)
    #expect(loop.nextDue == .max)
    let before = Clock.now
    let hold = Hold {}
    queue.add(hold)
    let after = Clock.now
    #expect((before + 40_000_000...after + 40_000_000).contains(loop.nextDue))
    queue.shorten(hold, to: before + 16_000_000)
    #expect((before + 16_000_000...Clock.now + 16_000_000).contains(loop.nextDue))
    #expect(queue.nextExpiry == before + 16_000_000)
  }

  /// Turns a loop until something is so; fails rather than hang.
  private func turn(_ loop: EventLoop, until condition: () -> Bool) throws {
    let deadline = Clock.now + 20_000_000_000
    while !condition() {
      try #require(Clock.now < deadline, "it never happened")
      try loop.turn(timeout: 10)
    }
  }

  @Test func aShortenedHoldExpiresFirstAndItsOwnerIsTold() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 60_000_000_000)
    var order: [Int] = []
    let holds = (0..<3).map { number in Hold { order.append(number) } }
    for hold in holds { queue.add(hold) }
    var told: [Hold] = []
    queue.onExpiry = { told.append($0) }
    queue.shorten(holds[1], to: Clock.now + 1_000_000)
    queue.shorten(holds[1], to: .max)
    queue.shorten(Hold {}, to: 0)
    try turn(loop) { !order.isEmpty }
    #expect(order == [1] && queue.expired == 1 && queue.pending == 2)
    queue.shorten(holds[2], to: 0)
    try turn(loop) { order.count > 1 }
    #expect(order == [1, 2])
    #expect(told.count == 2 && told[0] === holds[1] && told[1] === holds[2])
    holds[0].release()
    #expect(order == [1, 2, 0] && told.count == 2)
  }

  @Test func allExpireAtOnceWhenTheDeviceIsReset() throws {
    let queue = HoldQueue(on: try EventLoop(), deadline: 60_000_000_000)
    var answers = 0
    for _ in 0..<3 { queue.add(Hold { answers += 1 }) }
    queue.expireAll()
    #expect(answers == 3 && queue.pending == 0 && queue.expired == 0)
  }

  /// What comes after a reset has its own deadline, which is later than those that were given up.
  @Test func aHoldAfterAResetExpiresToo() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 2_000_000)
    queue.add(Hold {})
    queue.expireAll()
    #expect(loop.nextDue == .max)
    var isOver = false
    queue.add(Hold { isOver = true })
    try #require(loop.nextDue < .max, "nobody would ever end it")
    try turn(loop) { isOver }
    #expect(queue.expired == 1)
  }

  /// Whoever is told of a late hold may release others, whose readers were not late.
  @Test func whatIsReleasedMeanwhileIsNotLate() throws {
    let loop = try EventLoop()
    let queue = HoldQueue(on: loop, deadline: 1_000_000)
    var answers = 0
    let holds = (0..<2).map { _ in Hold { answers += 1 } }
    var told = 0
    queue.onExpiry = { _ in
      told += 1
      holds[1].release()
    }
    for hold in holds { queue.add(hold) }
    // Both are due in the same turn.
    usleep(3000)
    try turn(loop) { answers == 2 }
    #expect(told == 1 && queue.expired == 1)
  }

  /// A copy that somebody reads would be drawn into, if a release too many counted for the next one.
  @Test func aReleaseTooManyCountsForNobody() {
    let lock = Hold()
    lock.release()
    lock.retain()
    #expect(lock.readers == 1)
    lock.release()
    lock.release()
    lock.retain()
    #expect(lock.readers == 1)
  }
}

@Suite struct SyncFileTests {
  private func refuses(_ fd: consuming OwnedFD) -> Bool {
    do throws(Errno) {
      _ = try SyncFile(checking: fd)
      return false
    } catch { return true }
  }

  @Test func whatIsNoFenceIsRefused() throws {
    #expect(refuses(try EventFD().fd.duplicate()))
    #expect(refuses(try MemFD.create("fences-test", size: 4096)))
    #expect(refuses(try OwnedFD.open("/proc/self", O_RDONLY)))
  }

  /// Whoever serves a file decides how long a request to it takes: only the kernel's own are asked.
  @Test func filesOfOthersAreNotAsked() throws {
    let files = [
      try MemFD.create("fence", size: 4096).release(),
      try OwnedFD.open("/proc/self", O_RDONLY).release(),
    ]
    for file in files {
      let error = #expect(throws: Errno.self) {
        _ = try SyncFile(checking: OwnedFD(adopting: file))
      }
      #expect("\(try #require(error))".hasPrefix("statx"))
    }
  }

  @Test func aWatchCallsOnceAndNotAfterItWent() throws {
    let loop = try EventLoop()
    let events = [SharedFD(try EventFD().fd.duplicate()), SharedFD(try EventFD().fd.duplicate())]
    var calls = 0
    let kept = try FenceWatch(events[0], on: loop) { calls += 1 }
    var gone: FenceWatch? = try FenceWatch(events[1], on: loop) { calls += 100 }
    for event in events {
      var one: UInt64 = 1
      #expect(write(event.raw, &one, 8) == 8)
    }
    _ = gone
    gone = nil
    for _ in 0..<3 { try loop.turn(timeout: 0) }
    #expect(calls == 1)
    withExtendedLifetime(kept) {}
  }
}
