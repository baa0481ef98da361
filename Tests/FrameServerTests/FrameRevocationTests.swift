import Buffers
import Fences
import Glibc
import Linux
import PinholeFrames
import Pixels
import Scene
import Testing

@testable import Buffers
@testable import FrameServer

@Suite struct FrameRevocationTests {
  @Test func aBufferThatNobodyHasIsReleasedAtOnce() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1)
    var released = 0
    bench.server.revoke(buffer.offered, reason: .destroyed) { released += 1 }
    #expect(released == 1)
    #expect(try bench.told(consumer) == ["output 0 64x32"])
  }

  @Test func itIsReleasedWhenAllHaveClosedIt() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumers = [try bench.consumer(closes: false), try bench.consumer(closes: false)]
    let name = BufferName(number: 1, generation: 1)
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    for consumer in consumers { _ = try bench.events(consumer) }
    #expect(buffer.offered.lock.readers == 2)
    var released = 0
    bench.server.revoke(buffer.offered, reason: .discarded) { released += 1 }
    for consumer in consumers {
      #expect(released == 0)
      #expect(try bench.told(consumer) == ["buffer 1.1 remove discarded"])
      #expect(consumer.buffers.isEmpty)
      #expect(released == 0)
      try consumer.closed(name)
      try bench.turn()
    }
    #expect(released == 1)
    // BUFFER_CLOSED counts as FRAME_DONE.
    #expect(buffer.offered.lock.readers == 0)
    #expect(bench.server.clients.allSatisfy { $0.outputs[0].inFlight.isEmpty && $0.late == 0 })
    #expect(openCount(buffer.label) == 1)
  }

  @Test func theNextGenerationComesAfterTheOldOneWent() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let old = try FakeBuffer(4, 1)
    let new = try FakeBuffer(4, 2)
    try bench.show(old)
    bench.server.revoke(old.offered, reason: .discarded) {}
    try bench.show(new, damage: Rect(x: 0, y: 0, width: 1, height: 1))
    #expect(
      try bench.told(consumer) == [
        "output 0 64x32", "buffer 4.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 1 buffer 4.1 damage 0,0 64x32 full", "buffer 4.1 remove discarded",
        "buffer 4.2 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 2 buffer 4.2 damage 0,0 64x32 full",
      ])
  }

  @Test func aFrameThatWaitsIsNeverSentAfterItsBufferWent() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let shown = try FakeBuffer(1)
    let waiting = try FakeBuffer(2)
    try bench.show(shown)
    try bench.show(shown)
    try bench.show(waiting)
    var released = 0
    bench.server.revoke(waiting.offered, reason: .destroyed) { released += 1 }
    #expect(released == 1)
    bench.scene.invalidate(0)
    for frame in try bench.frames(consumer) { try consumer.done(frame) }
    #expect(try bench.told(consumer).isEmpty)
    // What it would have shown is not forgotten.
    try bench.show(shown, damage: Rect(x: 0, y: 0, width: 1, height: 1))
    let frame = try #require(try bench.frames(consumer).first)
    #expect(frame.damage == [Rect(x: 0, y: 0, width: 64, height: 32)] && frame.hasSkipped)
  }

  @Test func aConsumerHasUntilTheCloseDeadline() throws {
    let deadline: UInt64 = 6_000_000_000
    let bench = try FrameBench { $0.closeDeadline = deadline }
    bench.enable()
    let consumer = try bench.consumer(closes: false)
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    _ = try bench.events(consumer)
    #expect(bench.loop.nextDue > Clock.now + 2 * deadline)
    let before = Clock.now
    bench.server.revoke(buffer.offered, reason: .rebacked) {}
    try bench.turn()
    let after = Clock.now
    #expect((before + deadline...after + deadline).contains(bench.loop.nextDue))
    #expect(FrameServer.Options().closeDeadline == 40_000_000)
  }

  @Test func theDeadlineReleasesWhatAConsumerKeeps() throws {
    let bench = try FrameBench { $0.closeDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer(closes: false)
    let old = try FakeBuffer(1, 1)
    let other = try FakeBuffer(2, 1)
    let new = try FakeBuffer(1, 2)
    var answers = 0
    let hold = Hold { answers += 1 }
    try bench.show(old, hold: hold)
    hold.release()
    try bench.show(other)
    for frame in try bench.frames(consumer) where frame.buffer.number == 2 {
      try consumer.done(frame)
    }
    var released = 0
    bench.server.revoke(old.offered, reason: .rebacked) { released += 1 }
    try bench.turn { released == 1 }
    #expect(answers == 1)
    #expect(old.offered.lock.readers == 0)
    #expect(bench.server.counters.closesLate == 1)
    // Nobody waits for it a second time, and it gets no further buffers.
    bench.server.revoke(other.offered, reason: .destroyed) { released += 1 }
    #expect(released == 2)
    try bench.show(new)
    #expect(
      try bench.told(consumer) == ["buffer 1.1 remove rebacked", "buffer 2.1 remove destroyed"])
    // It catches up.
    try consumer.closed(BufferName(number: 1, generation: 1))
    try consumer.closed(BufferName(number: 2, generation: 1))
    #expect(
      try bench.told(consumer) == [
        "buffer 1.2 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 3 buffer 1.2 damage 0,0 64x32 full",
      ])
    #expect(bench.server.clients.first?.overdue == 0)
    #expect(bench.server.clients.first?.late == 0)
  }

  /// Who closes what it was to close after the deadline is not blamed for what another keeps.
  @Test func aLateAnswerIsHeard() throws {
    let bench = try FrameBench { $0.closeDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer(closes: false)
    let pages = try FakeBuffer(1, memory: .guestPages)
    try bench.show(pages)
    _ = try bench.events(consumer)
    let mine = try #require(bench.server.clients.first).recipient
    #expect(mine.label == "frame consumer \"test\" (process \(getpid()))")
    let other = Recipient("another")
    pages.offered.given(to: other)
    #expect(pages.offered.recipients.suspects.count == 2)
    var released = 0
    bench.server.revoke(pages.offered, reason: .rebacked) { released += 1 }
    try bench.turn { released == 1 }
    #expect(pages.offered.recipients.suspects.contains { $0 === mine })
    #expect(try bench.told(consumer) == ["buffer 1.1 remove rebacked"])
    try consumer.closed(BufferName(number: 1, generation: 1))
    try bench.turn()
    #expect(pages.offered.recipients.suspects.map(\.label) == ["another"])
    // Where all have said so, all may have lied.
    pages.offered.closed(by: other)
    #expect(pages.offered.recipients.suspects.count == 2)
  }

  /// Processes of other PID namespaces have one number, and nothing else in common.
  @Test func whoHasNoNumberAnswersForItselfAlone() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    let mine = try #require(bench.server.clients.first)
    #expect(bench.server.recipient(ofProcess: mine.peer.pid) === mine.recipient)
    let keeper = bench.server.recipient(ofProcess: 0)
    let another = bench.server.recipient(ofProcess: 0)
    keeper.keptBytes = 4096
    #expect(!another.keepsPages)
    another.keptBytes = 4096
    #expect(!bench.server.recipient(ofProcess: 0).keepsPages, "nor does who comes later")
    withExtendedLifetime(consumer) {}
  }

  /// The device asks before it takes the guest's pages away as unused.
  @Test func whatAConsumerHasOnScreenIsSeen() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let old = try FakeBuffer(1, memory: .guestPages)
    let new = try FakeBuffer(2, memory: .guestPages)
    #expect(!bench.scene.isSeen(old.offered))
    for _ in 0..<2 { try bench.show(old) }
    let frames = try bench.frames(consumer)
    // It is behind, and has not been told of the new one.
    try bench.show(new)
    #expect(bench.scene.isSeen(old.offered) && !bench.scene.isSeen(new.offered))
    for frame in frames { try consumer.done(frame) }
    #expect(try bench.frames(consumer).last?.buffer.number == 2)
    #expect(!bench.scene.isSeen(old.offered) && bench.scene.isSeen(new.offered))
  }

  @Test func whatAnyConsumerHasOnScreenIsSeen() throws {
    let bench = try FrameBench()
    bench.enable()
    let (quick, slow) = (try bench.consumer("quick"), try bench.consumer("slow"))
    let (old, new) = (try FakeBuffer(1), try FakeBuffer(2))
    for buffer in [old, old, new] {
      try bench.show(buffer)
      for frame in try bench.frames(quick) { try quick.done(frame) }
      try bench.turn()
    }
    #expect(bench.scene.isSeen(new.offered) && bench.scene.isSeen(old.offered))
    for frame in try bench.frames(slow) { try slow.done(frame) }
    try bench.turn()
    #expect(bench.scene.isSeen(new.offered) && !bench.scene.isSeen(old.offered))
  }

  /// What the consumer shows is removed as unused when something else is on its screen.
  @Test(arguments: [0, 2], [OfferedBuffer.Memory.copy, .rendered])
  func whatIsOnScreenGoesWithTheNextPicture(
    _ unanswered: Int, _ memory: OfferedBuffer.Memory
  ) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let old = try FakeBuffer(1, memory: memory)
    let new = try FakeBuffer(2, width: 32, height: 16)
    for _ in 0..<max(1, unanswered) { try bench.show(old) }
    let frames = try bench.frames(consumer)
    if unanswered == 0 { for frame in frames { try consumer.done(frame) } }
    bench.server.revoke(old.offered, reason: .unused) {}
    bench.enable(0, (32, 16))
    #expect(try bench.told(consumer) == ["output 0 32x16"])
    try bench.show(new)
    if unanswered > 0 {
      #expect(try bench.told(consumer) == [])
      try consumer.done(frames[0])
    }
    #expect(
      try bench.told(consumer) == [
        "buffer 2.1 add 32x16 XR24 stride 128 copy",
        "frame 0 serial \(frames.count + 1) buffer 2.1 damage 0,0 32x16 full",
        "buffer 1.1 remove unused",
      ])
    bench.server.revoke(new.offered, reason: .unused) {}
    bench.server.output(0, resized: nil)
    #expect(try bench.told(consumer) == ["output 0 off", "buffer 2.1 remove unused"])
  }

  @Test func whatItIsRemovedForInEarnestDoesNotWait() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    _ = try bench.events(consumer)
    bench.server.revoke(buffer.offered, reason: .unused) {}
    #expect(try bench.told(consumer) == [])
    bench.server.revoke(buffer.offered, reason: .reset) {}
    #expect(try bench.told(consumer) == ["buffer 1.1 remove reset"])
  }

  @Test func aFrameThatWaitedGoesOutAfterALook() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let old = try FakeBuffer(1, memory: .guestPages)
    let new = try FakeBuffer(1, 2, memory: .guestPages)
    for _ in 0..<3 { try bench.show(old) }
    let frames = try bench.frames(consumer)
    #expect(frames.count == 2)
    var looks = 0
    bench.onLook = { [unowned bench] buffer in
      looks += 1
      guard buffer === old.offered else { return }
      bench.server.revoke(buffer, reason: .discarded) {}
      try? bench.show(new)
    }
    try consumer.done(frames[0])
    let told = try bench.told(consumer)
    #expect(looks > 0)
    #expect(told.first == "buffer 1.1 remove discarded")
    #expect(told.last?.hasPrefix("frame 0 serial 3 buffer 1.2") == true, "\(told)")
    #expect(told.count == 3)
  }

  @Test(arguments: [false, true])
  func aBufferComesBackOnlyAfterItsBufferClosed(isAnswered: Bool) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer(closes: false)
    let buffer = try FakeBuffer(1, memory: .guestPages)
    try bench.show(buffer)
    for frame in try bench.frames(consumer) where isAnswered { try consumer.done(frame) }
    try bench.turn()
    bench.server.revoke(buffer.offered, reason: .unused) {}
    var isFree = false
    let hold = Hold { isFree = true }
    try bench.show(buffer, hold: hold)
    hold.release()
    #expect(isFree, "the guest does not wait for what is not sent")
    #expect(try bench.told(consumer) == ["buffer 1.1 remove unused"])
    try consumer.closed(BufferName(number: 1, generation: 1))
    #expect(
      try bench.told(consumer) == [
        "buffer 1.1 add 64x32 XR24 stride 256 dma-buf",
        "frame 0 serial 2 buffer 1.1 damage 0,0 64x32 full",
      ])
  }

  @Test func aLeavingConsumerReleasesRevokedBuffers() throws {
    let bench = try FrameBench()
    bench.enable()
    var consumer: FrameConsumer? = try bench.consumer(closes: false)
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    var released = 0
    bench.server.revoke(buffer.offered, reason: .reset) { released += 1 }
    #expect(released == 0)
    _ = consumer
    consumer = nil
    try bench.turn()
    #expect(released == 1)
    #expect(buffer.offered.lock.readers == 0)
  }

  @Test func aConsumerThatNeverClosesIsDroppedInTheEnd() throws {
    let bench = try FrameBench { $0.closeDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer(closes: false)
    var buffers: [FakeBuffer] = []
    for id in 0..<70 {
      let buffer = try FakeBuffer(UInt32(id))
      buffers.append(buffer)
      try bench.show(buffer)
      for frame in try bench.frames(consumer) { try consumer.done(frame) }
      try bench.turn()
    }
    var released = 0
    for buffer in buffers {
      bench.server.revoke(buffer.offered, reason: .reset) { released += 1 }
    }
    try bench.turn { released == 70 }
    #expect(bench.server.clients.isEmpty)
    var refusal = ""
    do {
      while try consumer.next(timeout: 0) != nil {}
    } catch {
      refusal = "\(error)"
    }
    #expect(refusal.contains("TOO_SLOW"))
  }

  @Test func veryManyBuffersAreNotAllKept() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let one = try FakeBuffer(0)
    for id in 0..<600 {
      let buffer = OfferedBuffer(
        id: UInt32(id), generation: 1, layout: try #require(one.offered.layout.packed),
        size: one.offered.size,
        fd: one.offered.fd, memory: .copy)
      let frame = Commit(
        output: 0, crop: Rect(x: 0, y: 0, width: 64, height: 32),
        damage: Rect(x: 0, y: 0, width: 64, height: 32), pixels: try bench.frame(one).pixels,
        buffer: buffer, lock: nil)
      bench.server.present(frame)
      for frame in try bench.frames(consumer) {
        #expect(frame.buffer.number == UInt32(id))
        try consumer.done(frame)
      }
    }
    #expect(consumer.buffers.count <= FrameClient.maxBuffers)
    #expect(bench.server.counters.framesSent == 600)
  }
}
