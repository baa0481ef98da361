import Buffers
import Glibc
import Linux
import Logging
import PinholeFrames
import Pixels
import Scene
import Sharing
import Testing

@testable import FrameServer

/// A producer, what `pinhole share` runs, and strangers, all in one thread.
private final class ShareBench {
  let producer: FrameBench
  let scene = Scene()
  let server: FrameServer
  let feed: ShareFeed

  init() throws {
    let log = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
    producer = try FrameBench()
    var options = FrameServer.Options()
    options.holdDeadline = 60_000_000_000
    server = FrameServer(scene, loop: producer.loop, options: options, log: log)
    let consumer = try FrameConsumer(
      socket: try producer.socket(), options: .init(name: "share"))
    feed = try ShareFeed(consumer, scene, server, on: producer.loop, log: log)
    try producer.turn()
  }

  /// A stranger that is connected.
  func stranger() throws -> FrameConsumer {
    let stranger = try newcomer()
    #expect(try told(stranger).first?.hasPrefix("connected") == true)
    return stranger
  }

  /// A stranger that has heard nothing yet.
  func newcomer() throws -> FrameConsumer {
    try FrameConsumer(socket: try server.socket(copiesOnly: true))
  }

  func events(_ stranger: FrameConsumer) throws -> [FrameConsumer.Event] {
    try producer.turn(8)
    return try producer.events(stranger)
  }

  func told(_ stranger: FrameConsumer) throws -> [String] {
    try events(stranger).map(\.description)
  }
}

/// What strangers are shown is what the producer shows, and nothing older.
@Suite struct ShareFeedTests {
  @Test func strangersHaveTheCursorAsItIs() throws {
    let bench = try ShareBench()
    let stranger = try bench.stranger()
    let pixels = (0..<UInt8(64)).map { $0 }
    let image = CursorImage(width: 4, height: 4, pixels: pixels, serial: 1)
    var state = CursorState(output: 2, x: 5, y: -7, hotX: 1, hotY: 3, image: image)
    bench.producer.server.cursor(state, imageChanged: true)
    let shown = try bench.events(stranger)
    #expect(shown.map(\.description) == ["cursor 2 at 5,-7 image 4x4 hot 1,3"])
    guard case .cursor(let cursor)? = shown.first else { return }
    #expect(cursor.image?.pixels == pixels)
    state.image = nil
    bench.producer.server.cursor(state, imageChanged: true)
    #expect(try bench.told(stranger) == ["cursor 2 hidden"])
    // The same image again, which nobody sends twice.
    (state.image, state.x) = (image, 6)
    bench.producer.server.cursor(state, imageChanged: true)
    #expect(try bench.told(stranger) == ["cursor 2 at 6,-7"])
    // Whoever comes late sees it, too.
    let late = try bench.newcomer()
    #expect(try bench.told(late).last == "cursor 2 at 6,-7 image 4x4 hot 1,3")
  }

  @Test func sizesAndFormatsAreTheProducers() throws {
    let bench = try ShareBench()
    let stranger = try bench.stranger()
    bench.producer.enable()
    try bench.producer.show(try FakeBuffer(1, fill: 7))
    #expect(try shown(bench, stranger) == Shown(64, 32, .xrgb8888, 7))
    // Lower, and as wide.
    bench.producer.enable(0, (64, 16))
    try bench.producer.show(try FakeBuffer(2, height: 16, fill: 8))
    #expect(try shown(bench, stranger) == Shown(64, 16, .xrgb8888, 8))
    // Red and blue change places.
    let other = try FakeBuffer(3, height: 16, fill: 9)
    let layout = PixelLayout(width: 64, height: 16, stride: 256, fourcc: .xbgr8888)
    let frame = try bench.producer.frame(other)
    bench.producer.server.present(
      Commit(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels,
        buffer: OfferedBuffer(
          id: 3, generation: 1, layout: layout, size: other.offered.size, fd: other.offered.fd,
          memory: .copy), lock: nil))
    #expect(try shown(bench, stranger) == Shown(64, 16, .xbgr8888, 9))
    // All were answered.
    #expect(bench.producer.server.reports.map(\.inFlight) == [0])
    #expect(bench.feed.counters.frames == 3)
  }

  /// Only what has changed is copied once more.
  @Test func changesAreCopiedAlone() throws {
    let bench = try ShareBench()
    let stranger = try bench.stranger()
    bench.producer.enable()
    let buffer = try FakeBuffer(1, fill: 7)
    try bench.producer.show(buffer)
    #expect(try shown(bench, stranger) == Shown(64, 32, .xrgb8888, 7))
    #expect(bench.feed.counters.copiedBytes == 64 * 32 * 4)
    for _ in 0..<3 {
      try bench.producer.show(buffer, damage: Rect(x: 1, y: 2, width: 3, height: 4))
      #expect(try shown(bench, stranger) == Shown(64, 32, .xrgb8888, 7))
    }
    #expect(bench.feed.counters.copiedBytes == 64 * 32 * 4 + 3 * 48)
  }

  private struct Shown: Equatable {
    let width: UInt32
    let height: UInt32
    let fourcc: FourCC
    let value: UInt8?

    init(_ width: UInt32, _ height: UInt32, _ fourcc: FourCC, _ value: UInt8?) {
      (self.width, self.height, self.fourcc, self.value) = (width, height, fourcc, value)
    }
  }

  /// The picture of the newest frame, which is answered; its value is that of all bytes.
  private func shown(_ bench: ShareBench, _ stranger: FrameConsumer) throws -> Shown {
    var newest: ReceivedFrame?
    for case .frame(let frame) in try bench.events(stranger) {
      newest = frame
      try stranger.done(frame)
    }
    let frame = try #require(newest)
    let buffer = try #require(stranger.buffers[frame.buffer])
    let pixels = try buffer.pixels(of: frame.crop)
    let value = pixels.allSatisfy { $0 == pixels.first } ? pixels.first : nil
    return Shown(frame.crop.width, frame.crop.height, buffer.fourcc, value)
  }
}
