import Buffers
import Fences
import Linux
import PinholeFrames
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

@Suite struct FrameServerTests {
  @Test func aConsumerIsShownWhatIsOnScreen() throws {
    let bench = try FrameBench()
    let buffer = try FakeBuffer(3, fill: 7)
    bench.enable()
    try bench.show(buffer)
    let image = CursorImage(
      width: 2, height: 1, pixels: [1, 2, 3, 4, 5, 6, 7, 8], serial: 1)
    bench.server.cursor(
      CursorState(output: 0, x: -5, y: 6, hotX: 1, hotY: 0, image: image), imageChanged: true)
    let consumer = try bench.consumer()
    let told = try bench.events(consumer)
    #expect(
      told.map(\.description) == [
        "output 0 64x32", "buffer 3.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 1 buffer 3.1 damage 0,0 64x32 full",
        "cursor 0 at -5,6 image 2x1 hot 1,0",
      ])
    let received = try #require(consumer.buffers[BufferName(number: 3, generation: 1)])
    let pixels = try received.pixels(of: Rect(x: 60, y: 30, width: 4, height: 2))
    #expect(pixels == [UInt8](repeating: 7, count: 32))
    guard case .cursor(let cursor) = try #require(told.first { "\($0)".hasPrefix("cursor") }) else {
      return
    }
    #expect(cursor.image?.pixels == [1, 2, 3, 4, 5, 6, 7, 8])
  }

  /// It says hello and is gone before it can be answered.
  @Test func whoLeavesBeforeTheAnswerIsNotCountedOff() throws {
    let bench = try FrameBench()
    for _ in 0..<3 {
      do { _ = try FrameConsumer(socket: try bench.socket()) }
      try bench.turn()
      #expect(bench.server.consumers == 0)
    }
    let stayed = try bench.consumer()
    #expect(bench.server.consumers == 1)
    withExtendedLifetime(stayed) {}
  }

  @Test func twoConsumersGetTheSameFramesEachInItsOwnTime() throws {
    let bench = try FrameBench()
    bench.enable()
    let one = try bench.consumer("one")
    let two = try bench.consumer("two")
    #expect(bench.server.consumers == 2)
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    let first = try #require(try bench.frames(one).first)
    try one.done(first)
    try bench.show(buffer, damage: Rect(x: 1, y: 2, width: 3, height: 4))
    #expect(
      try bench.told(one) == ["frame 0 serial 2 buffer 1.1 damage 1,2 3x4"])
    #expect(
      try bench.told(two) == [
        "output 0 64x32", "buffer 1.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 1 buffer 1.1 damage 0,0 64x32 full",
        "frame 0 serial 2 buffer 1.1 damage 1,2 3x4",
      ])
    #expect(buffer.offered.lock.readers == 3)
    let counters = bench.server.counters
    #expect(counters.consumers == 2 && counters.framesSent == 4 && counters.framesDone == 1)
  }

  @Test func demandFollowsTheConsumers() throws {
    let bench = try FrameBench()
    #expect(!bench.scene.wantsBuffers)
    var consumers: [FrameConsumer] = [try bench.consumer(), try bench.consumer()]
    #expect(bench.scene.wantsBuffers)
    consumers.removeLast()
    try bench.turn()
    #expect(bench.scene.wantsBuffers)
    consumers.removeLast()
    try bench.turn()
    #expect(!bench.scene.wantsBuffers)
  }

  @Test func aBufferIsSentOnceAndOnlyWhenItIsShown() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffers = [try FakeBuffer(1), try FakeBuffer(2)]
    var added: [String] = []
    for turn in 0..<6 {
      try bench.show(buffers[turn % 2])
      for event in try bench.events(consumer) {
        if case .bufferAdded(let buffer) = event { added.append(buffer.name.description) }
        if case .frame(let frame) = event { try consumer.done(frame) }
      }
    }
    #expect(added == ["1.1", "2.1"])
    try bench.turn()
    #expect(buffers[0].offered.lock.readers == 0)
    #expect(buffers[1].offered.lock.readers == 0)
  }

  @Test func severalOutputsAreIndependent() throws {
    let bench = try FrameBench()
    bench.enable(0)
    bench.enable(15)
    let consumer = try bench.consumer()
    let buffers = [try FakeBuffer(1), try FakeBuffer(2)]
    for _ in 0..<3 { try bench.show(buffers[0], output: 0) }
    try bench.show(buffers[1], output: 15)
    let frames = try bench.frames(consumer)
    #expect(frames.map(\.output) == [0, 0, 15])
    bench.server.output(15, resized: nil)
    #expect(try bench.told(consumer) == ["output 15 off"])
    // What no protocol can say is left out.
    bench.server.output(16, resized: (1, 1))
    try bench.show(buffers[0], output: 16)
    #expect(try bench.told(consumer).isEmpty)
  }

  @Test func aNewSizeComesBeforeItsFirstFrame() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let small = try FakeBuffer(1)
    let large = try FakeBuffer(2, width: 128, height: 64)
    try bench.show(small)
    bench.enable(0, (128, 64))
    try bench.show(large)
    // A frame that does not fit the output is not shown.
    try bench.show(small)
    #expect(
      try bench.told(consumer) == [
        "output 0 64x32", "buffer 1.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 1 buffer 1.1 damage 0,0 64x32 full", "output 0 128x64",
        "buffer 2.1 add 128x64 XR24 stride 512 copy",
        "frame 0 serial 2 buffer 2.1 damage 0,0 128x64 full",
      ])
  }

  @Test func aCropMovesAndIsThenShownInFull() throws {
    let bench = try FrameBench()
    bench.enable(0, (16, 16))
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1)
    let small = Rect(x: 1, y: 1, width: 2, height: 2)
    try bench.show(buffer, crop: Rect(x: 0, y: 0, width: 16, height: 16), damage: small)
    try consumer.done(try #require(try bench.frames(consumer).first))
    try bench.show(buffer, crop: Rect(x: 0, y: 0, width: 16, height: 16), damage: small)
    var frame = try #require(try bench.frames(consumer).first)
    #expect(!frame.isFull && frame.damage == [Rect(x: 1, y: 1, width: 2, height: 2)])
    try consumer.done(frame)
    try bench.show(buffer, crop: Rect(x: 48, y: 16, width: 16, height: 16), damage: small)
    frame = try #require(try bench.frames(consumer).first)
    #expect(frame.isFull && frame.damage == [Rect(x: 0, y: 0, width: 16, height: 16)])
    #expect(frame.crop == Rect(x: 48, y: 16, width: 16, height: 16))
  }

  @Test func cursorImagesTravelOnce() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    let image = CursorImage(
      width: 1, height: 1, pixels: [1, 2, 3, 4], serial: 9)
    var state = CursorState(output: 0, x: 1, y: 2, hotX: 0, hotY: 0, image: image)
    bench.server.cursor(state, imageChanged: true)
    state.x = 5
    bench.server.cursor(state, imageChanged: false)
    state.image = nil
    bench.server.cursor(state, imageChanged: true)
    #expect(
      try bench.told(consumer) == [
        "cursor 0 at 1,2 image 1x1 hot 0,0", "cursor 0 at 5,2", "cursor 0 hidden",
      ])
  }

  /// Whatever the guest says, consumers can draw it.
  @Test func aHotSpotIsAPixelOfTheImage() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    let image = CursorImage(width: 4, height: 2, pixels: .init(repeating: 1, count: 32), serial: 1)
    bench.server.cursor(
      CursorState(output: 0, x: 1, y: 2, hotX: 9, hotY: 9, image: image), imageChanged: true)
    #expect(try bench.told(consumer) == ["cursor 0 at 1,2 image 4x2 hot 3,1"])
  }

  @Test func theEndIsAnnounced() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    bench.server.close()
    #expect(throws: FramesError.self) { try consumer.next(timeout: 0) }
    #expect(bench.server.consumers == 0)
  }

  @Test func tooManyConsumersAreRefused() throws {
    let bench = try FrameBench { $0.maxConsumers = 1 }
    let first = try bench.consumer()
    let second = try FrameConsumer(socket: try bench.socket())
    try bench.turn()
    do {
      _ = try second.next(timeout: 0)
      Issue.record("no refusal came")
    } catch {
      #expect("\(error)" == "the producer refused: LIMIT: there are 1 consumers already")
    }
    #expect(try first.next(timeout: 0) == nil)
    #expect(bench.server.counters.refused == 1)
  }

  @Test func aHelloHasFiveSecondsAndNoMore() throws {
    let bench = try FrameBench()
    let before = Clock.now
    let socket = try bench.socket()
    let due = before + 5_000_000_000...Clock.now + 5_000_000_000
    #expect(due.contains(bench.loop.nextDue))
    let consumer = try FrameConsumer(socket: try socket.duplicate(), options: .init(name: "test"))
    try bench.turn { bench.loop.nextDue == .max }
    withExtendedLifetime(consumer) {}
  }

  @Test func silenceEndsAtTheHelloDeadline() throws {
    let bench = try FrameBench { $0.helloDeadline = 1 }
    let socket = try bench.socket()
    try bench.turn { bench.server.clients.isEmpty }
    let error = try RawConsumer.error(socket.raw)
    #expect(error.code == 5)
    #expect(bench.server.counters.refused == 1 && bench.server.counters.consumers == 0)
  }
}
