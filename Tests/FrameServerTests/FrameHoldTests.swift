import Buffers
import Fences
import Linux
import PinholeFrames
import Scene
import Testing

@testable import FrameServer

/// The device may end a hold before the consumer's deadline.
@Suite struct FrameHoldTests {
  @Test func whoKeepsAFrameThatNobodyWaitsForGetsCopies() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1, memory: .guestPages)
    var isAnswered = false
    let hold = Hold { isAnswered = true }
    func show(_ hold: Hold?) throws -> [ReceivedFrame] {
      try bench.show(buffer, hold: hold)
      return try bench.frames(consumer)
    }
    let first = try #require(try show(hold).first)
    hold.release()
    #expect(!isAnswered)
    hold.expire()
    bench.scene.expire(hold)
    #expect(isAnswered && bench.server.counters.framesLate == 1)
    #expect(hold.readers == 0, "nobody is counted as its reader any more")
    let next = try #require(try show(nil).first)
    #expect(next.copyReason == .late)
    // Once it has let go of the late frame it gets the pages again.
    try consumer.done(first)
    try consumer.done(next)
    _ = try bench.events(consumer)
    let last = try show(nil)
    #expect(last.first?.copyReason == nil && last.count == 1)
  }
}
