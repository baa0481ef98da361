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
    let queue = try HoldQueue(on: loop, deadline: 1_000_000)
    var order: [Int] = []
    let holds = (0..<4).map { number in Hold { order.append(number) } }
    for hold in holds { queue.add(hold) }
    holds[1].release()
    #expect(queue.pending == 3)
    while order.count < 4 { try loop.turn(timeout: 10) }
    #expect(order == [1, 0, 2, 3])
    #expect(queue.expired == 3)
    for hold in holds { hold.release() }
    #expect(order.count == 4)
  }

  @Test func allExpireAtOnceWhenTheDeviceIsReset() throws {
    let queue = try HoldQueue(on: try EventLoop(), deadline: 60_000_000_000)
    var answers = 0
    for _ in 0..<3 { queue.add(Hold { answers += 1 }) }
    queue.expireAll()
    #expect(answers == 3 && queue.pending == 0 && queue.expired == 0)
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
