import Buffers
import CLinux
import FakeGuest
import Fences
import Linux
import PinholeFrames
import Pixels
import Scene
import Testing

@testable import FrameServer

@Suite struct FrameFlowTests {
  @Test func aHoldIsReleasedOnceAfterTheLastConsumer() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumers = [try bench.consumer(), try bench.consumer()]
    let buffer = try FakeBuffer(1, memory: .guestPages)
    var answers = 0
    let hold = Hold { answers += 1 }
    try bench.show(buffer, hold: hold)
    hold.release()
    #expect(answers == 0)
    for (index, consumer) in consumers.enumerated() {
      #expect(answers == 0)
      #expect(hold.readers == 2 - index, "one lock, whoever looks")
      #expect(bench.server.counters.framesDone == UInt64(index))
      let frame = try #require(try bench.frames(consumer).first)
      try consumer.done(frame)
      try consumer.done(frame)  // the library sends it once
      try bench.turn()
    }
    #expect(answers == 1)
    #expect(buffer.offered.lock.readers == 0)
    #expect(bench.server.counters.framesDone == 2)
  }

  @Test func aLeavingConsumerReleasesWhatItHeld() throws {
    let bench = try FrameBench()
    bench.enable()
    var consumer: FrameConsumer? = try bench.consumer()
    let buffer = try FakeBuffer(1, memory: .guestPages)
    var answers = 0
    for _ in 0..<3 {
      let hold = Hold { answers += 1 }
      try bench.show(buffer, hold: hold)
      hold.release()
    }
    // The third frame waits and holds nobody.
    #expect(answers == 1)
    _ = consumer
    consumer = nil
    try bench.turn()
    #expect(answers == 3)
    #expect(buffer.offered.lock.readers == 0)
    #expect(openCount(buffer.label) == 1)
  }

  @Test func aSlowConsumerGetsTheNewestFrameWithAllDamage() throws {
    let bench = try FrameBench()
    bench.enable()
    let slow = try bench.consumer("slow")
    let quick = try bench.consumer("quick")
    let buffers = try (1...5).map { try FakeBuffer(UInt32($0)) }
    for (index, buffer) in buffers.enumerated() {
      let at = UInt32(index)
      try bench.show(buffer, damage: Rect(x: at * 4, y: at * 2, width: 4, height: 2))
      for frame in try bench.frames(quick) { try quick.done(frame) }
    }
    var frames = try bench.frames(slow)
    #expect(frames.map(\.buffer.number) == [1, 2])
    try slow.done(frames[0])
    frames = try bench.frames(slow)
    #expect(frames.map(\.buffer.number) == [5])
    #expect(frames.first?.hasSkipped == true)
    #expect(bench.server.counters.dropped == 2)
    // All of these were sent with a new buffer each, hence in full. From here on in parts:
    try slow.done(frames[0])
    try bench.turn()
    try bench.show(buffers[4], damage: Rect(x: 0, y: 0, width: 1, height: 1))
    try bench.show(buffers[4], damage: Rect(x: 4, y: 4, width: 2, height: 2))
    try bench.show(buffers[4], damage: Rect(x: 8, y: 2, width: 2, height: 2))
    try bench.turn()
    frames = try bench.frames(slow)
    #expect(frames.map(\.damage) == [[Rect(x: 0, y: 0, width: 1, height: 1)]])
    try slow.done(frames[0])
    frames = try bench.frames(slow)
    let changed = [
      Rect(x: 4, y: 4, width: 2, height: 2), Rect(x: 8, y: 2, width: 2, height: 2),
    ]
    #expect(frames.map(\.damage) == [changed])
    #expect(frames.first?.hasSkipped == true)
    #expect(frames.first?.isFull == false)
    // From here on it keeps up, and is told so.
    try slow.done(frames[0])
    try bench.turn()
    try bench.show(buffers[4], damage: Rect(x: 0, y: 0, width: 1, height: 1))
    #expect(try bench.frames(slow).map(\.hasSkipped) == [false])
  }

  /// Behind guest pages a guest waits, behind copies nobody: these are its consumer's ten times as
  /// long.
  @Test(arguments: [(.guestPages, 1), (.copy, 10)] as [(OfferedBuffer.Memory, UInt64)])
  func aFrameIsLateAfterTheHoldDeadline(_ memory: OfferedBuffer.Memory, _ times: UInt64) throws {
    let deadline: UInt64 = 600_000_000_000
    let bench = try FrameBench { $0.holdDeadline = deadline }
    bench.enable()
    let consumer = try bench.consumer()
    #expect(bench.loop.nextDue == .max)
    let before = Clock.now
    try bench.show(try FakeBuffer(1, memory: memory))
    try bench.turn()
    let after = Clock.now
    let due = before + times * deadline...after + times * deadline
    #expect(due.contains(bench.loop.nextDue))
    withExtendedLifetime(consumer) {}
  }

  @Test func aConsumerPastItsDeadlineHoldsNothing() throws {
    let bench = try FrameBench { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1, memory: .guestPages)
    var answers = 0
    let first = Hold { answers += 1 }
    try bench.show(buffer, hold: first)
    first.release()
    try bench.turn { answers == 1 }
    #expect(buffer.offered.lock.readers == 0)
    #expect(bench.server.counters.framesLate == 1)
    // The next one is shown, but does not hold the guest.
    let second = Hold { answers += 1 }
    try bench.show(buffer, hold: second)
    second.release()
    #expect(answers == 2)
    // Once it has caught up it may hold again.
    for frame in try bench.frames(consumer) { try consumer.done(frame) }
    try bench.turn()
    let third = Hold { answers += 1 }
    try bench.show(buffer, hold: third)
    third.release()
    #expect(answers == 2)
    for frame in try bench.frames(consumer) { try consumer.done(frame) }
    try bench.turn()
    #expect(answers == 3)
    #expect(buffer.offered.lock.readers == 0)
    #expect(bench.server.counters.framesDone == 3)
  }

  @Test func aConsumerThatDoesNotReadCostsNothing() throws {
    let bench = try FrameBench()
    bench.enable()
    let stalled = try bench.consumer("stalled")
    let quick = try bench.consumer("quick")
    let client = try #require(bench.server.clients.first)
    let buffer = try FakeBuffer(1)
    var state = CursorState(output: 0, x: 0, y: 0, hotX: 0, hotY: 0, image: nil)
    var answers = 0
    var seen = 0
    for turn in 0..<5000 {
      state.x = Int32(turn)
      bench.server.cursor(state, imageChanged: false)
      let hold = Hold { answers += 1 }
      try bench.show(buffer, hold: hold)
      hold.release()
      if turn % 100 == 0 {
        for frame in try bench.frames(quick) {
          seen += 1
          try quick.done(frame)
        }
        try bench.turn(1)
      }
    }
    #expect(client.isBlocked)
    #expect(client.outputs[0].inFlight.count == 2)
    #expect(client.removals.isEmpty)
    #expect(seen > 50)
    // It wakes up: after what the socket held it gets the newest state, nothing between.
    let told = try bench.events(stalled)
    var frames = told.compactMap { event in
      if case .frame(let frame) = event { frame } else { nil }
    }
    #expect(frames.count == 2)
    for frame in frames { try stalled.done(frame) }
    let after = try bench.events(stalled)
    frames = after.compactMap { event in
      if case .frame(let frame) = event { frame } else { nil }
    }
    #expect(frames.count == 1)
    #expect(frames.first?.hasSkipped == true)
    let places = (told + after).compactMap { event in
      if case .cursor(let cursor) = event { cursor.x } else { nil }
    }
    #expect(places.last == 4999)
    #expect(places == places.sorted())
    #expect(!client.isBlocked)
  }

  /// A loop that is told of room again and again never rests.
  @Test func roomIsOnlyLookedForWhereItLacks() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    let client = try #require(bench.server.clients.first)
    let image = CursorImage(width: 1, height: 1, pixels: [1, 2, 3, 4], serial: 1)
    #expect(WatchedSocket.awaitsRoom(client.socket.raw) == false)
    for x: Int32 in 0..<20_000 where !client.isBlocked {
      bench.server.cursor(
        CursorState(output: 0, x: x, y: 0, hotX: 0, hotY: 0, image: image), imageChanged: x == 0)
    }
    #expect(WatchedSocket.awaitsRoom(client.socket.raw) == true)
    #expect(try bench.events(consumer).count > 1)
    _ = try bench.events(consumer)
    #expect(WatchedSocket.awaitsRoom(client.socket.raw) == false)
  }
}
