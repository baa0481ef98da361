import Buffers
import FakeGuest
import Fences
import Glibc
import Linux
import Scene
import Testing

@testable import VirtioGPU

/// What consumers that want buffers and hold frames get, where only copies can be had.
@Suite struct ConsumerTests {
  private func bench(
    holding: Bool = true, holdDeadline: UInt64 = HoldQueue.defaultDeadline
  ) throws -> (DeviceBench, Framebuffer) {
    let bench = try DeviceBench(mode: .direct, holdDeadline: holdDeadline)
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = holding
    }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    return (bench, buffer)
  }

  @Test func withoutUdmabufConsumersGetCopies() throws {
    let (bench, buffer) = try bench(holding: false)
    buffer.draw(TestPicture.smpte.render(width: 64, height: 64))
    try buffer.flush()
    let shown = try #require(bench.seen.last)
    #expect(shown.memory == "copy")
    #expect(shown.picture.difference(from: buffer.contents) == nil)
    guard case .pages(.noDevice) = shown.why else {
      Issue.record("why a copy: \(String(describing: shown.why))")
      return
    }
  }

  @Test func withoutUdmabufThatIsWhyFromTheFirstFrameOn() throws {
    let bench = try DeviceBench()
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    for _ in 0..<3 {
      try buffer.flush()
      guard case .pages(.noDevice) = try #require(bench.seen.last).why else {
        Issue.record("why a copy: \(String(describing: bench.seen.last?.why))")
        return
      }
    }
  }

  @Test func aFencedFlushIsAnsweredWhenTheFrameIsReleased() throws {
    let (bench, buffer) = try bench()
    var answered = false
    for command in buffer.flushCommands(fence: 5) {
      try bench.driver.send(command) { answered = $0.fence == 5 }
    }
    try bench.driver.kick()
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.wait(for: "the fence") { answered }
    #expect(try bench.inDevice { device, _ in device.holds.expired } == 0)
  }

  @Test func aFrameThatIsNeverReleasedCostsOneDeadline() throws {
    let (bench, buffer) = try bench()
    try buffer.flush(fence: 6)
    #expect(try bench.inDevice { device, _ in device.holds.expired } == 1)
  }

  @Test func oneInterruptForAFrame() throws {
    let (bench, buffer) = try bench(holdDeadline: 60_000_000_000)
    let before = bench.seen.frames.count
    for command in buffer.flushCommands(fence: 6) { try bench.driver.send(command) }
    _ = bench.driver.ring(.control).armCall()
    _ = bench.front.takeCalls(0)
    try bench.driver.kick()
    while bench.seen.frames.count == before { usleep(1000) }
    // The turn that showed it has ended.
    _ = try bench.inDevice { _, _ in }
    #expect(bench.front.takeCalls(0) == 0, "the transfer's answer waits for the flush's")
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    _ = try bench.inDevice { _, _ in }
    #expect(bench.front.takeCalls(0) == 1)
    try bench.driver.drain()
  }

  @Test func whatTheGuestWaitsForIsToldAtOnce() throws {
    let (bench, buffer) = try bench(holdDeadline: 60_000_000_000)
    let before = bench.seen.frames.count
    let commands = buffer.flushCommands(fence: 7)
    try bench.driver.send(commands[0].fenced(6))
    try bench.driver.send(commands[1])
    _ = bench.driver.ring(.control).armCall()
    _ = bench.front.takeCalls(0)
    try bench.driver.kick()
    while bench.seen.frames.count == before { usleep(1000) }
    _ = try bench.inDevice { _, _ in }
    #expect(bench.front.takeCalls(0) == 1)
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
  }

  /// It has no fence to wait for, and waits all the same.
  @Test func whatTheGuestAskedIsToldAtOnce() throws {
    let (bench, buffer) = try bench(holdDeadline: 60_000_000_000)
    let before = bench.seen.frames.count
    for command in buffer.flushCommands(fence: 7) { try bench.driver.send(command) }
    try bench.driver.send(.getDisplayInfo)
    _ = bench.driver.ring(.control).armCall()
    _ = bench.front.takeCalls(0)
    try bench.driver.kick()
    while bench.seen.frames.count == before { usleep(1000) }
    _ = try bench.inDevice { _, _ in }
    #expect(bench.front.takeCalls(0) == 1)
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
  }

  @Test func theCursorDoesNotWaitLong() throws {
    let (bench, buffer) = try bench()
    for command in buffer.flushCommands(fence: 7) { try bench.driver.send(command) }
    let cursor = try Framebuffer(bench.driver, resource: 2, width: 64, height: 64)
    try bench.driver.perform(.transferToHost2D(2, cursor.bounds, offset: 0).fenced(8))
    try bench.driver.perform(.moveCursor(0, x: 3, y: 4))
    #expect(bench.seen.log.withLock { $0.cursors.last?.x } == 3)
    try bench.driver.drain()
  }

  @Test func atMostSixCopiesAndThenTheNewestPicture() throws {
    let (bench, buffer) = try bench()
    for frame in 0..<8 {
      buffer.draw(TestPicture.checker.render(width: 64, height: 64, frame: frame))
      try buffer.flush()
    }
    let buffers = bench.seen.frames.map(\.buffer)
    #expect(Set(buffers.filter { $0 != 0 }).count == 6)
    #expect(buffers.suffix(2) == [0, 0])
    let before = bench.seen.frames.count
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    // Late frames come at the end of that turn.
    _ = try bench.inDevice { _, _ in }
    #expect(bench.seen.frames.count > before)
    let newest = try #require(bench.seen.last)
    #expect(newest.buffer != 0)
    #expect(newest.picture.difference(from: buffer.contents) == nil)
  }

  @Test func aRingThatStopsLeavesNoRequestUnanswered() throws {
    let (bench, buffer) = try bench()
    var answers = 0
    for command in buffer.flushCommands(fence: 9) {
      try bench.driver.send(command) { _ in answers += 1 }
    }
    try bench.driver.kick()
    try bench.front.pause()
    try bench.front.resume()
    try bench.driver.wait(for: "answers over a pause") { answers == 2 }
    try buffer.flush()
    #expect(bench.seen.last?.picture.difference(from: buffer.contents) == nil)
  }

  @Test func aGuestThatFlipsIsShownDirectlyUntilItDrawsInPlace() throws {
    let bench = try DeviceBench(mode: .auto)
    let a = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let b = try Framebuffer(bench.driver, resource: 2, width: 64, height: 64)
    for turn in 0..<8 {
      let next = turn % 2 == 0 ? a : b
      next.draw(TestPicture.checker.render(width: 64, height: 64, frame: turn))
      try bench.driver.perform(.transferToHost2D(next.resource, next.bounds, offset: 0))
      try next.show()
      try bench.driver.perform(.flush(next.resource, next.bounds))
      #expect(bench.seen.last?.picture.difference(from: next.contents) == nil)
    }
    let flipping = try bench.inDevice { device, _ in device.counters.transfers }
    #expect(flipping < 8)
    for turn in 8..<14 {
      b.draw(TestPicture.checker.render(width: 64, height: 64, frame: turn))
      try b.flush()
      #expect(bench.seen.last?.picture.difference(from: b.contents) == nil)
    }
    let drawing = try bench.inDevice { device, _ in device.counters.transfers }
    #expect(drawing >= flipping + 3)
  }
}
