import Buffers
import FakeGuest
import Fences
import Glibc
import Linux
import Pixels
import Testing

@testable import VirtioGPU

/// Fenced answers of one timeline come in order, whatever each waits for.
@Suite struct FenceOrderTests {
  private static let minute: UInt64 = 60_000_000_000

  /// Answers in the order in which they came.
  private final class Answers {
    var order: [UInt64] = []
  }

  private func bench(
    holdDeadline: UInt64 = minute, outputs: UInt32 = 1
  ) throws -> (DeviceBench, [Framebuffer]) {
    let bench = try DeviceBench(
      mode: .direct, configure: { $0.outputs = outputs }, holdDeadline: holdDeadline)
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = true
    }
    let buffers = try (0..<outputs).map { output in
      let buffer = try Framebuffer(bench.driver, resource: 1 + output, width: 64, height: 64)
      try buffer.show(on: output)
      return buffer
    }
    return (bench, buffers)
  }

  /// Sends commands at once; their fences are noted as they are answered.
  private func send(_ commands: [GPUCommand], _ bench: DeviceBench, _ answers: Answers) throws {
    for command in commands {
      try bench.driver.send(command) { answers.order.append($0.isFenced ? $0.fence : 0) }
    }
    try bench.driver.kick()
  }

  private func onRing(_ command: GPUCommand, context: UInt32, _ ring: UInt8) -> GPUCommand {
    var copy = command
    copy.put(UInt32(3), at: 4)
    copy.put(context, at: 16)
    copy.put(ring, at: 20)
    return copy
  }

  /// Waits until the device has run what was sent, as another ring shows.
  private func settle(_ bench: DeviceBench) throws {
    try bench.driver.perform(.moveCursor(0, x: 1, y: 1))
    _ = try bench.inDevice { _, _ in }
    _ = try bench.driver.poll()
  }

  @Test func aYoungerFenceComesAfterTheHeldFlush() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    // What follows is good and bad, and answered with and without data.
    try send(
      [
        .flush(1, buffers[0].bounds).fenced(5),
        .create2D(7, .b8g8r8a8, width: 64, height: 64).fenced(6), .unref(99).fenced(7),
        .getDisplayInfo.fenced(8),
      ], bench, answers)
    try bench.driver.drain()
    #expect(answers.order == [5, 6, 7, 8])
    let (expired, waits, told) = try bench.inDevice { device, recorder in
      (device.holds.expired, device.counters.fenceWaits, recorder.expiredHolds)
    }
    #expect(expired == 1 && told == 1, "the younger ones end the hold long before its deadline")
    #expect(waits.counts.reduce(0, +) == 3)
    #expect(waits.longest > 0 && waits.longest < Self.minute)
  }

  /// The younger fence's wait is looked at, not measured: when the held flush is to end, in the
  /// turn in which that was decided.
  @Test func aYoungerFenceWaitsForSixteenMilliseconds() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    let decided = Locked<(expiry: UInt64, time: UInt64)?>(nil)
    let began = Clock.now
    _ = try bench.inDevice { device, recorder in
      recorder.loop?.everyTurn { [unowned device] in
        let expiry = device.holds.nextExpiry
        guard expiry < began + Self.minute else { return }
        decided.withLock { $0 = $0 ?? (expiry, Clock.now) }
      }
    }
    try send([.flush(1, buffers[0].bounds).fenced(5)], bench, answers)
    try settle(bench)
    #expect(decided.withLock { $0 } == nil, "alone it may take its whole deadline")
    let before = Clock.now
    try send([.getDisplayInfo.fenced(6)], bench, answers)
    try bench.driver.drain()
    let (expiry, time) = try #require(decided.withLock { $0 })
    #expect(expiry >= before + 16_000_000 && expiry <= time + 16_000_000)
  }

  /// A picture that the renderer cannot draw, because consumers hold all it draws into, keeps a
  /// younger fence back no longer than the guest's own pages would.
  @Test(arguments: [false, true])
  func aYoungerFenceEndsTheHoldOfARenderedFlush(_ isCursor: Bool) throws {
    let bench = try DeviceBench(holdDeadline: Self.minute, with3D: true)
    let whole = Rect(width: 64, height: 32)
    let cursor = try Framebuffer(bench.driver, resource: 2, width: 64, height: 64)
    try bench.driver.perform(
      .create3D(1, target: 2, format: 2, bind: 0x14_000a, width: 64, height: 32))
    try bench.driver.perform(.setScanout(0, resource: 1, whole))
    _ = try bench.inDevice { device, _ in
      (device.renderer as? ScriptedRenderer)?.isEager = false
    }
    let answers = Answers()
    let younger =
      isCursor ? GPUCommand.transferToHost2D(2, cursor.bounds, offset: 0) : .getDisplayInfo
    try send([.flush(1, whole).fenced(5), younger.fenced(6)], bench, answers)
    try bench.driver.drain()
    #expect(answers.order == [5, 6])
    let (expired, waits) = try bench.inDevice { device, _ in
      (device.holds.expired, device.counters.fenceWaits)
    }
    #expect(expired == 1, "the younger one ends the hold long before its deadline")
    #expect(waits.counts.reduce(0, +) == 1 && waits.longest < Self.minute)
    // The picture itself still comes.
    _ = try bench.inDevice { device, _ in (device.renderer as? ScriptedRenderer)?.finish() }
    #expect(bench.seen.frames.count == 1)
  }

  @Test func aReleaseSendsAllThatWaited() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    try send(
      [.flush(1, buffers[0].bounds).fenced(5), .getDisplayInfo.fenced(6)], bench, answers)
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
    #expect(answers.order == [5, 6])
  }

  @Test func whatHasNoFenceGoesThrough() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    try send([.flush(1, buffers[0].bounds).fenced(5), .getDisplayInfo], bench, answers)
    try settle(bench)
    #expect(answers.order == [0])
    #expect(try bench.inDevice { device, _ in device.holds.pending } == 1)
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
    #expect(answers.order == [0, 5])
    let (expired, waits) = try bench.inDevice { device, _ in
      (device.holds.expired, device.counters.fenceWaits)
    }
    #expect(expired == 0 && waits.counts.allSatisfy { $0 == 0 })
  }

  @Test func otherTimelinesGoThrough() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    try send(
      [
        .flush(1, buffers[0].bounds).fenced(5), onRing(.getDisplayInfo.fenced(6), context: 0, 0),
        onRing(.getDisplayInfo.fenced(7), context: 3, 1),
      ], bench, answers)
    try settle(bench)
    #expect(answers.order == [6, 7])
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
    #expect(answers.order == [6, 7, 5])
  }

  /// Without rings all contexts share the device's one timeline, as Linux has it.
  @Test func contextsWithoutRingsShareATimeline() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    var other = GPUCommand.getDisplayInfo.fenced(6)
    other.put(UInt32(9), at: 16)
    try send([.flush(1, buffers[0].bounds).fenced(5), other], bench, answers)
    try bench.driver.drain()
    #expect(answers.order == [5, 6])
  }

  @Test func anotherOutputsFlushWaitsAndEndsTheOlderHoldOnly() throws {
    let (bench, buffers) = try bench(outputs: 2)
    let answers = Answers()
    try send(
      [.flush(1, buffers[0].bounds).fenced(5), .flush(2, buffers[1].bounds).fenced(6)], bench,
      answers)
    try bench.driver.wait(for: "the first flush") { answers.order == [5] }
    #expect(try bench.inDevice { device, _ in device.holds.pending } == 1)
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.drain()
    #expect(answers.order == [5, 6])
    #expect(try bench.inDevice { device, _ in device.holds.expired } == 1)
  }

  @Test func aQueueThatStopsAnswersInOrder() throws {
    let (bench, buffers) = try bench()
    let answers = Answers()
    try send(
      [
        .flush(1, buffers[0].bounds).fenced(5), .getDisplayInfo.fenced(6),
        .flush(1, buffers[0].bounds).fenced(7),
      ], bench, answers)
    try bench.front.pause()
    try bench.front.resume()
    try bench.driver.drain()
    #expect(answers.order == [5, 6, 7])
  }

  @Test func randomFencesKeepTheirOrder() throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("randomFencesKeepTheirOrder: seed \(seed)")
    var random = SeededRandom(seed: seed)
    let (bench, buffers) = try bench(holdDeadline: 2_000_000, outputs: 2)
    var lines: [Int: Answers] = [:]
    var sent: [Int: [UInt64]] = [:]
    for fence in UInt64(1)...600 {
      let line = Int.random(in: 0...2, using: &random)
      let buffer = buffers[Int.random(in: 0...1, using: &random)]
      var command: GPUCommand
      switch Int.random(in: 0...5, using: &random) {
      case 0: command = .getDisplayInfo
      case 1: command = .unref(50)
      case 2: command = .transferToHost2D(buffer.resource, buffer.bounds, offset: 0)
      default: command = .flush(buffer.resource, buffer.bounds)
      }
      if Int.random(in: 0...4, using: &random) > 0 {
        command = command.fenced(fence)
        if line > 0 { command = onRing(command, context: UInt32(line), UInt8(line)) }
        sent[line, default: []].append(fence)
      }
      let answers = lines[line] ?? Answers()
      lines[line] = answers
      try bench.driver.send(command) { if $0.isFenced { answers.order.append($0.fence) } }
      if Int.random(in: 0...7, using: &random) == 0 { try bench.driver.kick() }
      if Int.random(in: 0...9, using: &random) == 0 {
        _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
      }
      if Int.random(in: 0...199, using: &random) == 0 {
        try bench.front.pause()
        try bench.front.resume()
      }
    }
    try bench.driver.drain()
    for (line, fences) in sent { #expect(lines[line]?.order == fences, "timeline \(line)") }
  }
}
