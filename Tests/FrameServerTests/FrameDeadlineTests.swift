import Buffers
import Fences
import Glibc
import Linux
import PinholeFrames
import Scene
import Testing

@testable import FrameServer

/// Whoever waits for several things at a time waits for each of them only as long as was said.
@Suite struct FrameDeadlineTests {
  @Test func whatIsDueFirstIsLookedAtFirstAndTheRestLater() throws {
    let deadline: UInt64 = 200_000_000
    let bench = try FrameBench { $0.holdDeadline = deadline }
    for output in 0..<2 { bench.enable(output) }
    let consumer = try bench.consumer()
    var answers = 0
    let hold = Hold { answers += 1 }
    let before = Clock.now
    try bench.show(try FakeBuffer(1, memory: .guestPages), output: 0, hold: hold)
    hold.release()
    // A copy has ten times as long, and does not put off what the guest waits for.
    try bench.show(try FakeBuffer(2), output: 1)
    let after = Clock.now
    #expect((before + deadline...after + deadline).contains(bench.loop.nextDue))
    try bench.turn { answers == 1 }
    #expect(bench.server.counters.framesLate == 1)
    if bench.server.counters.copiesLate == 0 {
      #expect(bench.loop.nextDue >= before + 10 * deadline)
      #expect(bench.loop.nextDue < .max, "the copy is not waited for without end")
    }
    withExtendedLifetime(consumer) {}
  }

  @Test func eachRemovedBufferHasItsOwnDeadline() throws {
    let bench = try FrameBench { $0.closeDeadline = 100_000_000 }
    for output in 0..<2 { bench.enable(output) }
    let consumer = try bench.consumer(closes: false)
    let buffers = [try FakeBuffer(1), try FakeBuffer(2)]
    for (output, buffer) in buffers.enumerated() { try bench.show(buffer, output: output) }
    _ = try bench.events(consumer)
    var released: [Int] = []
    for (index, buffer) in buffers.enumerated() {
      bench.server.revoke(buffer.offered, reason: .reset) { released.append(index) }
      if index == 0 { usleep(50_000) }
    }
    #expect(released.isEmpty)
    try bench.turn { released == [0, 1] }
    #expect(bench.server.counters.closesLate == 2)
  }

  /// Nobody lacks them: only strangers have copies taken away.
  @Test func whoIsTrustedKeepsCopiesThatAreLate() throws {
    let bench = try FrameBench { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    var told = try bench.told(consumer)
    try bench.turn { bench.server.counters.copiesLate == 1 }
    told += try bench.told(consumer)
    #expect(
      told == [
        "output 0 64x32", "buffer 1.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 1 buffer 1.1 damage 0,0 64x32 full",
      ])
    #expect(buffer.offered.lock.readers == 0, "it may be drawn into")
  }

  /// A stranger has some time to read what it was sent, even if another lacks a copy.
  @Test func strangersLoseOnlyWhatTheyHaveHadForLong() throws {
    let bench = try FrameBench()
    bench.enable()
    let stranger = try FrameConsumer(socket: try bench.socket(copiesOnly: true))
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    #expect(try bench.frames(stranger).count == 1)
    bench.server.reclaimCopies(after: .max)
    #expect(buffer.offered.lock.readers == 1 && bench.server.counters.copiesLate == 0)
    #expect(try bench.told(stranger).isEmpty)
    bench.server.reclaimCopies(after: 0)
    #expect(buffer.offered.lock.readers == 0 && bench.server.counters.copiesLate == 1)
    #expect(try bench.told(stranger) == ["buffer 1.1 remove timeout"])
  }
}
