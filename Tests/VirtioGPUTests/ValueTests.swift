import Buffers
import FakeGuest
import Pixels
import Testing

@testable import VirtioGPU

/// Values that reach the screen only in pictures which guests seldom make.
@Suite struct ValueTests {
  @Test func aTransferFromElsewhereShowsTheSnapshotAndNotThePages() throws {
    let bench = try DeviceBench(mode: .direct)
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    let driver = bench.driver
    let pages = try driver.ram.allocate(bytes: 64 * 64 * 4 + 4096)
    let all = Rect(width: 64, height: 64)
    let picture = TestPicture.smpte.render(width: 64, height: 64)
    // The picture begins one page into its backing.
    picture.pixels.withUnsafeBytes { driver.ram.write($0, to: pages, at: 4096) }
    try driver.perform(.create2D(1, .b8g8r8x8, width: 64, height: 64))
    try driver.perform(.attachBacking(1, pages.entries()))
    try driver.perform(.setScanout(0, resource: 1, all))
    try driver.perform(.transferToHost2D(1, all, offset: 4096))
    try driver.perform(.flush(1, all))
    let shown = try #require(bench.seen.last)
    #expect(shown.picture.difference(from: picture) == nil)
    #expect(shown.memory == "copy", "the pages themselves are another picture")
  }

  @Test func aFlushOutsideOfAPictureOnScreenIsRefusedAndShowsNothing() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    try buffer.flush()
    let before = bench.seen.frames.count
    for rect in [
      Rect(x: 60, y: 0, width: 5, height: 1),
      Rect(x: 0, y: 63, width: 1, height: 2),
      Rect(x: .max, y: 0, width: 2, height: 1), Rect(width: 65, height: 64),
    ] {
      #expect(try bench.driver.run(.flush(1, rect)).response == .invalidParameter, "\(rect)")
    }
    #expect(bench.seen.frames.count == before)
    try buffer.flush(Rect(x: 60, y: 63, width: 4, height: 1))
    #expect(
      bench.seen.last?.damage == Rect(x: 60, y: 63, width: 4, height: 1))
  }

  @Test func threeFlipsInARowAreFlipping() {
    var policy = ScanoutPolicy()
    var changes: [Bool] = []
    // The first picture comes in the place of none.
    for resource in [1, 2, 1] as [UInt32] { changes.append(policy.flushed(resource)) }
    #expect(!policy.isFlipping)
    changes.append(policy.flushed(2))
    #expect(policy.isFlipping && changes == [false, false, false, true])
  }

  /// A guest that draws each picture twice would be seen in the middle of it.
  @Test func flipsBetweenRedrawsAreNone() {
    var policy = ScanoutPolicy()
    for turn in 0..<40 {
      let resource = UInt32(turn % 2) + 1
      for _ in 0..<2 {
        _ = policy.flushed(resource)
        #expect(!policy.isFlipping, "turn \(turn)")
      }
    }
  }

  @Test func redrawsThatAreFarApartDoNotEndFlipping() {
    var policy = ScanoutPolicy()
    for turn in 0..<5 { _ = policy.flushed(UInt32(turn % 2) + 1) }
    #expect(policy.isFlipping)
    for turn in 5..<40 {
      let resource = UInt32(turn % 2) + 1
      _ = policy.flushed(resource)
      // Each picture is touched up once, and never twice.
      _ = policy.flushed(resource)
      #expect(policy.isFlipping, "turn \(turn)")
    }
    for _ in 0..<2 { _ = policy.flushed(2) }
    #expect(!policy.isFlipping)
  }
}
