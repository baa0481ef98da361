import Buffers
import Fences
import PinholeFrames
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

/// What happens on one output, and what it means for the others.
@Suite struct FrameOutputsTests {
  private let corner = Rect(x: 1, y: 2, width: 3, height: 4)

  private func answer(_ consumer: FrameConsumer, _ bench: FrameBench) throws -> [ReceivedFrame] {
    let frames = try bench.frames(consumer)
    for frame in frames { try consumer.done(frame) }
    try bench.turn()
    return frames
  }

  /// Whoever cleared its window meanwhile has nothing that a part could be put into.
  @Test func anOutputThatComesBackIsShownInFull() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    _ = try answer(consumer, bench)
    try bench.show(buffer, damage: corner)
    #expect(try answer(consumer, bench).first?.damage == [corner])
    bench.server.output(0, resized: nil)
    bench.enable()
    try bench.show(buffer, damage: corner)
    let frame = try #require(try answer(consumer, bench).first)
    #expect(frame.isFull && frame.damage == [Rect(width: 64, height: 32)])
  }

  /// A buffer that nobody shows any more goes once it has left the last output.
  @Test func whatIsOnTwoOutputsGoesWithTheSecond() throws {
    let bench = try FrameBench()
    for output in [0, 5] { bench.enable(output) }
    let consumer = try bench.consumer()
    let (old, new) = (try FakeBuffer(1), try FakeBuffer(2))
    for output in [0, 5] { try bench.show(old, output: output) }
    #expect(try answer(consumer, bench).count == 2)
    bench.server.revoke(old.offered, reason: .unused) {}
    try bench.show(new, output: 0)
    var told = try bench.told(consumer)
    #expect(told.last?.hasPrefix("frame 0 serial 2 buffer 2.1") == true)
    #expect(!told.contains { $0.contains("remove") }, "output 5 shows it")
    try bench.show(new, output: 5)
    told = try bench.told(consumer)
    #expect(told.last == "buffer 1.1 remove unused")
  }

  /// Closing a buffer gives back its frames of all outputs, as does not closing it in time.
  @Test(arguments: [true, false]) func aRemovedBufferIsOnNoOutput(isClosed: Bool) throws {
    let bench = try FrameBench { if !isClosed { $0.closeDeadline = 1_000_000 } }
    for output in [0, 5] { bench.enable(output) }
    let consumer = try bench.consumer(closes: isClosed)
    let buffer = try FakeBuffer(1)
    for output in [0, 5] { try bench.show(buffer, output: output) }
    #expect(try bench.frames(consumer).count == 2)
    #expect(buffer.offered.lock.readers == 2)
    var released = 0
    bench.server.revoke(buffer.offered, reason: .reset) { released += 1 }
    #expect(try bench.told(consumer) == ["buffer 1.1 remove reset"])
    try bench.turn { released == 1 }
    #expect(buffer.offered.lock.readers == 0)
    #expect(bench.server.counters.closesLate == (isClosed ? 0 : 1))
  }

  /// What is on screen again is not taken away with the next picture.
  @Test func whatComesBackOnScreenStays() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let (old, new) = (try FakeBuffer(1), try FakeBuffer(2))
    try bench.show(old)
    _ = try answer(consumer, bench)
    bench.server.revoke(old.offered, reason: .unused) {}
    try bench.show(old)
    _ = try answer(consumer, bench)
    try bench.show(new)
    #expect(
      try bench.told(consumer) == [
        "buffer 2.1 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 3 buffer 2.1 damage 0,0 64x32 full",
      ])
  }

  /// Of very many buffers those go that are on no output.
  @Test func veryManyBuffersTakeNothingFromTheScreen() throws {
    let bench = try FrameBench()
    for output in 0..<16 { bench.enable(output) }
    let consumer = try bench.consumer()
    let one = try FakeBuffer(0)
    func show(_ id: UInt32, on output: Int) throws -> [ReceivedFrame] {
      let buffer = OfferedBuffer(
        id: id, generation: 1, layout: one.offered.layout, size: one.offered.size,
        fd: one.offered.fd, memory: .copy)
      let whole = Rect(width: 64, height: 32)
      bench.server.present(
        Commit(
          output: output, crop: whole, damage: whole, pixels: try bench.frame(one).pixels,
          buffer: buffer, lock: nil))
      return try answer(consumer, bench)
    }
    for output in 1..<16 { _ = try show(UInt32(output), on: output) }
    for id in 100..<600 as Range<UInt32> { #expect(try show(id, on: 0).count == 1) }
    #expect(consumer.buffers.count == FrameClient.maxBuffers)
    for output in 1..<16 as Range<UInt32> {
      #expect(consumer.buffers[BufferName(number: output, generation: 1)] != nil)
    }
  }

  /// What an operator is told counts all outputs.
  @Test func aReportIsOfAllOutputs() throws {
    let bench = try FrameBench()
    for output in [0, 3] { bench.enable(output) }
    let consumer = try bench.consumer("behind")
    let buffer = try FakeBuffer(1)
    for _ in 0..<5 { try bench.show(buffer, output: 3) }
    try bench.show(buffer, output: 0)
    let report = try #require(bench.server.reports.first)
    #expect(report.name == "behind" && !report.isCopyOnly && bench.server.reports.count == 1)
    #expect(report.inFlight == 3 && report.lateNow == 0 && report.unclosed == 0)
    #expect(report.counters.frames == 3 && report.counters.skipped == 2)
    #expect(report.counters.late == 0)
    withExtendedLifetime(consumer) {}
  }
}
