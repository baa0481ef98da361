import FakeGuest
import Linux
import Scene
import Testing

@testable import VirtioGPU

/// Cursors that the renderer drew: their images come later.
@Suite struct RenderedCursorTests {
  private static let side: UInt32 = 64

  /// Resource 1 is a 3D cursor, and 5 is one that the guest draws itself.
  private func bench() throws -> DeviceBench {
    let bench = try DeviceBench(with3D: true)
    try bench.makePicture(1, width: Self.side, height: Self.side, format: 1)
    let plain = try Framebuffer(
      bench.driver, resource: 5, width: 64, height: 64, format: .b8g8r8a8)
    plain.draw(TestPicture.smpte.render(width: 64, height: 64))
    try bench.driver.perform(.transferToHost2D(5, plain.bounds, offset: 0))
    try bench.renderer { $0.isEager = false }
    return bench
  }

  private func last(_ bench: DeviceBench) throws -> Recorder.Cursor {
    try #require(bench.seen.log.withLock { $0.cursors.last })
  }

  private static let drawn = [UInt8](repeating: 9, count: Int(side * side) * 4)

  /// What was hidden before is not what the guest shows now.
  @Test func aMoveDoesNotShowAnOlderCursor() throws {
    let bench = try bench()
    try bench.driver.perform(.updateCursor(0, resource: 5, x: 1, y: 1))
    try bench.driver.perform(.moveCursor(0, resource: 0, x: 1, y: 1))
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 2, y: 2, hotX: 7, hotY: 8))
    try bench.driver.perform(.moveCursor(0, resource: 1, x: 3, y: 3))
    #expect(try last(bench).pixels == nil && last(bench).x == 3)
    try bench.renderer { $0.finish() }
    let shown = try last(bench)
    #expect(shown.pixels == Self.drawn && shown.x == 3 && shown.hotX == 7 && shown.hotY == 8)
  }

  /// Hidden while its image is on its way it stays so, until the guest shows it.
  @Test(arguments: [
    GPUCommand.moveCursor(0, resource: 0, x: 4, y: 4),
    .updateCursor(0, resource: 0, x: 4, y: 4),
  ])
  func oneThatIsHiddenBeforeItCameIsNotShown(_ hide: GPUCommand) throws {
    let bench = try bench()
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 2, y: 2, hotX: 7))
    try bench.driver.perform(hide)
    try bench.renderer { $0.finish() }
    #expect(bench.seen.log.withLock { $0.cursors.allSatisfy { $0.pixels == nil } })
    try bench.driver.perform(.moveCursor(0, resource: 1, x: 5, y: 5))
    #expect(try last(bench).pixels == Self.drawn && last(bench).hotX == 7)
    // Shown again before it came, it comes.
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 2, y: 2))
    try bench.driver.perform(hide)
    try bench.driver.perform(.moveCursor(0, resource: 1, x: 6, y: 6))
    #expect(try last(bench).pixels == nil)
    try bench.renderer { $0.finish() }
    #expect(try last(bench).pixels == Self.drawn)
  }

  @Test func oneThatIsRefusedLeavesTheOneBefore() throws {
    let bench = try bench()
    try bench.driver.perform(.updateCursor(0, resource: 5, x: 1, y: 1))
    let plain = try last(bench).pixels
    try bench.driver.perform(.moveCursor(0, resource: 0, x: 1, y: 1))
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 2, y: 2))
    try bench.renderer { renderer in
      renderer.refuses = true
      renderer.finish()
    }
    try bench.driver.perform(.moveCursor(0, resource: 5, x: 3, y: 3))
    #expect(try plain != nil && last(bench).pixels == plain)
  }

  @Test func whatIsTooLargeIsNotRead() throws {
    let bench = try bench()
    for (id, width, height) in [(2, 513, 64), (3, 64, 513)] as [(UInt32, UInt32, UInt32)] {
      try bench.renderer { $0.isEager = true }
      try bench.makePicture(id, width: width, height: height, format: 1)
      let update = GPUCommand.updateCursor(0, resource: id, x: 2, y: 2)
      #expect(try bench.driver.run(update).response == .invalidParameter)
    }
    #expect(try bench.asked("read") == [])
  }

  /// The guest does not wait for images, which take memory and a descriptor each.
  @Test func aFloodOfCursorsIsOneImageAtATime() throws {
    let bench = try bench()
    for x in UInt32(0)..<200 {
      try bench.driver.perform(.updateCursor(0, resource: 1, x: x, y: 0, hotX: x % 64))
    }
    #expect(try bench.asked("read").count == 1)
    try bench.renderer { $0.finish() }
    #expect(try bench.asked("read").count == 2)
    let shown = try last(bench)
    #expect(shown.pixels == Self.drawn && shown.x == 199 && shown.hotX == 199 % 64)
  }

  @Test func aResetForgetsWhatIsOnItsWay() throws {
    let bench = try bench()
    for _ in 0..<2 { try bench.driver.perform(.updateCursor(0, resource: 1, x: 2, y: 2)) }
    try bench.driver.restart()
    #expect(try bench.asked("read").count == 1)
    try bench.driver.perform(.moveCursor(0, resource: 1, x: 3, y: 3))
    #expect(try last(bench).pixels == nil)
  }
}
