import FakeGuest
import Linux
import Scene
import Testing

@testable import VirtioGPU

@Suite struct CursorTests {
  private func bench(side: Int = 64) throws -> (DeviceBench, Framebuffer) {
    let bench = try DeviceBench()
    let cursor = try Framebuffer(
      bench.driver, resource: 5, width: side, height: side, format: .b8g8r8a8)
    cursor.draw(TestPicture.smpte.render(width: side, height: side))
    try bench.driver.perform(.transferToHost2D(5, cursor.bounds, offset: 0))
    return (bench, cursor)
  }

  private func last(_ bench: DeviceBench) throws -> Recorder.Cursor {
    try #require(bench.seen.log.withLock { $0.cursors.last })
  }

  @Test func hotSpotsAreInsideTheImage() throws {
    let (bench, _) = try bench(side: 32)
    let spots: [(UInt32, UInt32)] = [
      (0, 0), (31, 31), (32, 31), (64, 31), (.max, 0), (1 << 31, 0), (.max >> 1, 31),
    ]
    for (given, taken) in spots {
      try bench.driver.perform(
        .updateCursor(0, resource: 5, x: 9, y: 9, hotX: given, hotY: 3))
      #expect(try last(bench).hotX == taken && last(bench).hotY == 3)
      try bench.driver.perform(
        .updateCursor(0, resource: 5, x: 9, y: 9, hotX: 4, hotY: given))
      #expect(try last(bench).hotX == 4 && last(bench).hotY == taken)
    }
  }

  @Test func placesAreNotFarOutside() throws {
    let (bench, _) = try bench()
    let far = CursorState.farthest
    let places: [(UInt32, Int32)] = [
      (0, 0), (.max, -1), (UInt32(bitPattern: -64), -64), (16384, 16384), (1 << 31, -far),
      (.max >> 1, far), (65_537, far), (UInt32(bitPattern: -65_537), -far),
    ]
    for (given, taken) in places {
      try bench.driver.perform(.updateCursor(0, resource: 5, x: given, y: 7))
      #expect(try last(bench).x == taken && last(bench).y == 7)
      try bench.driver.perform(.moveCursor(0, x: 8, y: given))
      #expect(try last(bench).x == 8 && last(bench).y == taken)
    }
  }

  @Test func aMoveHidesTheCursorAndShowsItAgain() throws {
    let (bench, _) = try bench()
    // Whatever hides it, a move brings it back, with the hot spot that it had.
    for hide in [
      GPUCommand.moveCursor(0, resource: 0, x: 1, y: 2),
      .updateCursor(0, resource: 0, x: 1, y: 2, hotX: 9),
    ] {
      try bench.driver.perform(.updateCursor(0, resource: 5, x: 1, y: 1, hotX: 3, hotY: 4))
      let shown = try last(bench)
      #expect(shown.pixels?.count == 64 * 64 * 4)
      try bench.driver.perform(hide)
      let hidden = try last(bench)
      #expect(hidden.pixels == nil && hidden.changed && hidden.x == 1 && hidden.y == 2)
      try bench.driver.perform(.moveCursor(0, resource: 0, x: 5, y: 5))
      #expect(try last(bench).pixels == nil && last(bench).x == 5 && !last(bench).changed)
      try bench.driver.perform(.moveCursor(0, resource: 77, x: 6, y: 7))
      let again = try last(bench)
      #expect(again.pixels == shown.pixels && again.changed && again.serial != shown.serial)
      #expect(again.hotX == 3 && again.hotY == 4 && again.x == 6 && again.y == 7)
      try bench.driver.perform(.moveCursor(0, resource: 5, x: 7, y: 7))
      #expect(try last(bench).serial == again.serial && !last(bench).changed)
    }
  }

  @Test func aMoveShowsNothingThatNeverWas() throws {
    let (bench, _) = try bench()
    try bench.driver.perform(.moveCursor(0, resource: 5, x: 1, y: 1))
    #expect(try last(bench).pixels == nil)
    try bench.driver.perform(.updateCursor(0, resource: 5, x: 1, y: 1))
    try bench.driver.perform(.moveCursor(0, resource: 0, x: 1, y: 1))
    try bench.driver.restart()
    try bench.driver.perform(.moveCursor(0, resource: 5, x: 1, y: 1))
    #expect(try last(bench).pixels == nil, "a reset forgets it")
    // Other outputs have cursors of their own.
    try bench.driver.perform(.moveCursor(1, resource: 5, x: 1, y: 1))
    #expect(try last(bench).pixels == nil)
  }

  @Test func whatWasNeverTransferredIsTransparent() throws {
    let bench = try DeviceBench()
    _ = try Framebuffer(bench.driver, resource: 6, width: 64, height: 64, format: .b8g8r8a8)
    try bench.driver.perform(.updateCursor(0, resource: 6, x: 1, y: 1))
    #expect(try last(bench).pixels == [UInt8](repeating: 0, count: 64 * 64 * 4))
  }

  /// Whatever the guest's format, displays get blue, green and red in that order.
  @Test(arguments: [FakeGuest.PixelFormat.b8g8r8a8, .a8r8g8b8, .r8g8b8a8, .a8b8g8r8])
  func coloursAreTheDisplays(_ format: FakeGuest.PixelFormat) throws {
    let bench = try DeviceBench()
    let cursor = try Framebuffer(
      bench.driver, resource: 6, width: 64, height: 64, format: format)
    let picture = TestPicture.smpte.render(width: 64, height: 64)
    cursor.draw(picture)
    try bench.driver.perform(.transferToHost2D(6, cursor.bounds, offset: 0))
    try bench.driver.perform(.updateCursor(0, resource: 6, x: 1, y: 1))
    let pixels = try #require(try last(bench).pixels)
    let colours = pixels.withUnsafeBytes { bytes in
      bytes.bindMemory(to: UInt32.self).map { UInt32(littleEndian: $0) & 0xff_ffff }
    }
    #expect(colours == picture.pixels)
  }

  @Test func aBlobIsACursorOf64By64() throws {
    let bench = try DeviceBench()
    let cursor = try Framebuffer(
      bench.driver, resource: 6, width: 64, height: 64, kind: .blob, format: .b8g8r8a8)
    cursor.draw(TestPicture.gradient.render(width: 64, height: 64))
    try bench.driver.perform(.updateCursor(0, resource: 6, x: 1, y: 1, hotX: 99))
    let shown = try last(bench)
    #expect(shown.pixels == bench.driver.ram.read(cursor.pages, count: 64 * 64 * 4))
    #expect(shown.hotX == 63)
  }

  @Test func aResetTakesTheCursorAway() throws {
    let (bench, _) = try bench()
    try bench.driver.perform(.updateCursor(3, resource: 5, x: 1, y: 1))
    #expect(try last(bench).pixels != nil)
    try bench.driver.restart()
    #expect(try last(bench).pixels == nil && last(bench).changed)
  }

  @Test func whatIsNoCursorIsRefused() throws {
    let (bench, _) = try bench()
    try bench.driver.perform(.create2D(7, .b8g8r8a8, width: 1, height: 513))
    try bench.driver.perform(.create2D(8, .b8g8r8a8, width: 513, height: 1))
    let answers: [(GPUCommand, GPUResponse)] = [
      (.updateCursor(16, resource: 5, x: 1, y: 1), .invalidScanout),
      (.updateCursor(.max, resource: 0, x: 1, y: 1), .invalidScanout),
      (.moveCursor(16, x: 1, y: 1), .invalidScanout),
      (.updateCursor(0, resource: 9, x: 1, y: 1), .invalidResource),
      (.updateCursor(0, resource: 7, x: 1, y: 1), .invalidParameter),
      (.updateCursor(0, resource: 8, x: 1, y: 1), .invalidParameter),
    ]
    for (command, answer) in answers { #expect(try bench.driver.run(command).response == answer) }
    #expect(bench.seen.log.withLock { $0.cursors.isEmpty })
  }
}
