import FrameProtocol
import Glibc
import Linux
import PinholeFrames
import Scene
import Testing

@testable import Buffers
@testable import FrameServer

/// What strangers could do to others with what they are given, and full sockets.
@Suite struct StrangerTests {
  private func cursor(_ serial: UInt64, _ side: UInt32 = 2) -> CursorImage {
    CursorImage(
      width: side, height: side,
      pixels: .init(repeating: UInt8(truncatingIfNeeded: serial), count: Int(side * side * 4)),
      serial: serial)
  }

  @Test func nobodyCanChangeTheCursorThatOthersSee() throws {
    let file = try #require(try FrameCursorFiles().slot(for: cursor(1))).fd
    #expect(MemFD.seals(of: file.raw) == [.shrink, .grow, .futureWrite, .seal])
    var byte: UInt8 = 9
    #expect(pwrite(file.raw, &byte, 1, 0) == -1 && errno == EPERM)
    let map = mmap(nil, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file.raw, 0)
    #expect(map == MAP_FAILED)
  }

  /// Whoever keeps all images that it gets has a bounded number of them.
  @Test(arguments: [(UInt32(64), 32), (65, 4), (512, 4)])
  func cursorsAreAFewFiles(_ side: UInt32, _ most: Int) throws {
    let files = FrameCursorFiles()
    var kept: Set<FileFacts.Identity> = []
    var refused = 0
    for serial in 1...100 as ClosedRange<UInt64> {
      guard let slot = try files.slot(for: cursor(serial, side)) else {
        refused += 1
        continue
      }
      kept.insert(try FileFacts(of: slot.fd.raw).identity)
      var byte: UInt8 = 0
      #expect(pread(slot.fd.raw, &byte, 1, 0) == 1 && byte == UInt8(serial))
    }
    #expect(kept.count == most)
    #expect(refused >= 1, "what was sent a moment ago stays as it is")
    // The same image again is the same file.
    let same = try #require(try files.slot(for: cursor(1, side)))
    #expect(try files.slot(for: cursor(1, side))?.fd === same.fd)
  }

  /// Who did not let go of pages that were taken back gets copies until it does.
  @Test func whoKeepsGuestPagesGetsNoMore() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let pages = try FakeBuffer(1, memory: .guestPages)
    try bench.show(pages)
    for frame in try bench.frames(consumer) { try consumer.done(frame) }
    #expect(consumer.buffers.count == 1)
    let client = try #require(bench.server.clients.first)
    client.recipient.keptBytes = 4096
    try bench.show(pages)
    let frame = try #require(try bench.frames(consumer).last)
    #expect(consumer.buffers[frame.buffer]?.memory == .copy)
    try consumer.done(frame)
    // Another connection of the same process is the same process.
    let second = try bench.consumer()
    let first = try #require(try bench.frames(second).first)
    #expect(second.buffers[first.buffer]?.memory == .copy)
    client.recipient.keptBytes = 0
    try bench.turn()
    try bench.show(pages)
    let last = try #require(try bench.frames(consumer).last)
    #expect(last.buffer == FrameProtocol.BufferName(number: 1, generation: 1))
  }

  /// Leaving and coming back is not letting go.
  @Test func whoComesBackHasWhatItKept() throws {
    let bench = try FrameBench()
    bench.enable()
    do {
      let consumer = try bench.consumer()
      try #require(bench.server.clients.first).recipient.keptBytes = 4096
      withExtendedLifetime(consumer) {}
    }
    try bench.turn()
    #expect(bench.server.clients.isEmpty)
    try bench.show(try FakeBuffer(1, memory: .guestPages))
    let again = try bench.consumer()
    let frame = try #require(try bench.frames(again).first)
    #expect(again.buffers[frame.buffer]?.memory == .copy && frame.copyReason == .late)
  }

  /// Its process's number may be another's by then.
  @Test func whoLeavesWithNothingIsForgotten() throws {
    let bench = try FrameBench()
    weak var recipient: Recipient?
    do {
      let consumer = try bench.consumer()
      recipient = try #require(bench.server.clients.first).recipient
      #expect(recipient != nil)
      withExtendedLifetime(consumer) {}
    }
    try bench.turn()
    #expect(bench.server.clients.isEmpty)
    _ = bench.server.recipient(ofProcess: 0)
    #expect(recipient == nil)
  }

  /// Whoever gets images and does not read them has one of them, and the newest in the end.
  @Test func imagesDoNotPileUpInASocket() throws {
    let bench = try FrameBench()
    let consumer = try bench.consumer()
    for serial in 1...5 as ClosedRange<UInt64> {
      bench.server.cursor(
        CursorState(output: 0, x: Int32(serial), y: 0, hotX: 0, hotY: 0, image: cursor(serial)),
        imageChanged: true)
      try bench.turn()
    }
    var told = try bench.told(consumer)
    #expect(told == ["cursor 0 at 1,0 image 2x2 hot 0,0"])
    try bench.turn(until: {
      told += (try? bench.told(consumer)) ?? []
      return told.count > 1
    })
    #expect(told.last == "cursor 0 at 5,0 image 2x2 hot 0,0")
    #expect(told.count == 2)
  }

  @Test func aFullSocketDoesNotTurnRemovalsAndAdditionsRound() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let old = try FakeBuffer(1, 1)
    let new = try FakeBuffer(1, 2)
    try bench.show(old)
    for frame in try bench.frames(consumer) { try consumer.done(frame) }
    try bench.turn()
    let image = CursorImage(width: 1, height: 1, pixels: [1, 2, 3, 4], serial: 1)
    // Nobody reads any more, and messages come until no more fit.
    for x: Int32 in 0..<20_000 {
      bench.server.cursor(
        CursorState(output: 0, x: x, y: 0, hotX: 0, hotY: 0, image: image), imageChanged: x == 0)
    }
    bench.server.revoke(old.offered, reason: .discarded) {}
    try bench.show(new)
    var told: [String] = []
    while !told.contains(where: { $0.hasPrefix("frame") }), told.count < 30_000 {
      let news = try bench.told(consumer)
      if news.isEmpty { break }
      told += news
    }
    #expect(told.count > 50, "the socket was full")
    let about = told.filter { !$0.hasPrefix("cursor") }
    #expect(
      about == [
        "buffer 1.1 remove discarded", "buffer 1.2 add 64x32 XR24 stride 256 copy",
        "frame 0 serial 2 buffer 1.2 damage 0,0 64x32 full",
      ])
  }
}
