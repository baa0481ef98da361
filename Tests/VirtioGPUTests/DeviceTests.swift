import Buffers
import FakeGuest
import Fences
import Linux
import Pixels
import Scene
import Testing

@testable import VirtioGPU

@Suite struct DeviceTests {
  @Test func aFlushedPictureIsShownExactly() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(
      bench.driver, resource: 1, width: 320, height: 200, placement: .scattered(seed: 7))
    let picture = TestPicture.smpte.render(width: 320, height: 200)
    buffer.draw(picture)
    try buffer.show()
    try buffer.flush()
    let shown = try #require(bench.seen.last)
    #expect(shown.picture.difference(from: picture) == nil)
    #expect(shown.damage == Rect(x: 0, y: 0, width: 320, height: 200))
    #expect(bench.seen.log.withLock { $0.sizes } == ["0 320x200"])
  }

  @Test(arguments: [false, true])
  func aSnapshotShowsWhatWasTransferred(copies: Bool) throws {
    let bench = try DeviceBench(mode: copies ? .copy : .direct)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let first = TestPicture.checker.render(width: 64, height: 64)
    let second = TestPicture.gradient.render(width: 64, height: 64)
    buffer.draw(first)
    try buffer.show()
    try buffer.flush()
    buffer.draw(second)
    try bench.driver.perform(.flush(1, buffer.bounds))
    let shown = try #require(bench.seen.last)
    #expect(shown.picture.difference(from: copies ? first : second) == nil)
  }

  @Test func onlyTheTransferredRectangleChanges() throws {
    let bench = try DeviceBench(mode: .copy)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let first = TestPicture.checker.render(width: 64, height: 64)
    let second = TestPicture.gradient.render(width: 64, height: 64)
    buffer.draw(first)
    try buffer.show()
    try buffer.flush()
    buffer.draw(second)
    try buffer.flush(Rect(x: 8, y: 16, width: 24, height: 32))
    let shown = try #require(bench.seen.last)
    #expect(shown.damage == Rect(x: 8, y: 16, width: 24, height: 32))
    for (x, y) in [(8, 16), (31, 47), (20, 30)] {
      #expect(shown.picture[x, y] == second[x, y])
    }
    for (x, y) in [(7, 16), (8, 15), (32, 47), (31, 48), (0, 0), (63, 63)] {
      #expect(shown.picture[x, y] == first[x, y])
    }
  }

  @Test func aScanoutShowsItsPartOfTheResource() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 128, height: 64)
    buffer.draw(TestPicture.gradient.render(width: 128, height: 64))
    let driver = bench.driver
    try driver.perform(
      .setScanout(0, resource: 1, Rect(x: 0, y: 0, width: 64, height: 64)))
    try driver.perform(
      .setScanout(1, resource: 1, Rect(x: 64, y: 0, width: 64, height: 64)))
    let corner = Rect(x: 70, y: 10, width: 4, height: 4)
    for _ in 0..<2 { try buffer.flush(corner) }
    let frames = bench.seen.frames
    #expect(frames.map(\.output) == [1, 1])
    // Whatever was flushed first, the output showed nothing of it before.
    #expect(frames.first?.damage == Rect(x: 0, y: 0, width: 64, height: 64))
    #expect(frames.last?.damage == Rect(x: 6, y: 10, width: 4, height: 4))
    try buffer.flush()
    let right = try #require(bench.seen.frames.last { $0.output == 1 })
    #expect(right.picture[0, 5] == buffer.contents[64, 5])
    #expect(bench.seen.frames.last { $0.output == 0 }?.picture[0, 5] == buffer.contents[0, 5])
  }

  /// Of the guest's pages, and of what a renderer draws.
  @Test(arguments: [false, true]) func damageCountsFromTheOutputsCorner(with3D: Bool) throws {
    let bench = try DeviceBench(with3D: with3D)
    if with3D {
      try bench.makePicture(1, width: 64, height: 128)
    } else {
      _ = try Framebuffer(bench.driver, resource: 1, width: 64, height: 128)
    }
    try bench.driver.perform(
      .setScanout(0, resource: 1, Rect(x: 16, y: 32, width: 32, height: 64)))
    for rect in [
      Rect(width: 64, height: 128), Rect(x: 20, y: 40, width: 4, height: 8),
      Rect(x: 10, y: 90, width: 8, height: 20), Rect(x: 0, y: 0, width: 64, height: 32),
    ] { try bench.driver.perform(.flush(1, rect)) }
    #expect(
      bench.seen.frames.map(\.damage) == [
        Rect(width: 32, height: 64), Rect(x: 4, y: 8, width: 4, height: 8),
        Rect(x: 0, y: 58, width: 2, height: 6),
      ])
  }

  /// Who comes between the two must not be shown the old one, whose pages the guest uses again.
  @Test func whatIsSetAndNotFlushedIsNoPicture() throws {
    let bench = try DeviceBench(mode: .direct)
    let first = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let second = try Framebuffer(bench.driver, resource: 2, width: 64, height: 64)
    try first.show()
    try first.flush()
    try second.show()
    #expect(try bench.inDevice { device, _ in !device.scene.hasPicture(0) })
    // Nor is he shown what the guest may still be drawing.
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    _ = try bench.inDevice { _, _ in }
    #expect(try bench.inDevice { device, _ in !device.scene.hasPicture(0) })
    try second.flush()
    #expect(try bench.inDevice { device, _ in device.scene.hasPicture(0) })
  }

  @Test func whatWasDoneIsCounted() throws {
    let bench = try DeviceBench(mode: .copy)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    func counters() throws -> GPUCounters {
      try bench.inDevice { device, _ in device.counters }
    }
    let before = try counters()
    try buffer.flush()
    var now = try counters()
    #expect(now.commands == before.commands + 2 && now.transfers == 1)
    #expect(now.flushes == 0 && now.frames == 0, "it is on no output")
    try buffer.show()
    try bench.driver.perform(.setScanout(1, resource: 1, Rect(width: 32, height: 64)))
    try buffer.flush(Rect(x: 0, y: 8, width: 64, height: 4))
    now = try counters()
    #expect(now.flushes == 1 && now.frames == 2 && now.directFrames == 0)
    #expect(now.errors == before.errors)
    #expect(try bench.driver.run(.unref(99)).response == .invalidResource)
    now = try counters()
    #expect(now.errors == before.errors + 1)
    #expect(now.copiedBytes == 64 * 64 * 4 + 64 * 4 * 4)
  }

  @Test func fencesAreEchoed() throws {
    let bench = try DeviceBench()
    var command = GPUCommand.getDisplayInfo.fenced(0x1234_5678_9abc)
    command.put(UInt32(77), at: 16)
    let answer = try bench.driver.run(command)
    #expect(answer.response == .okDisplayInfo)
    #expect(answer.isFenced && answer.fence == 0x1234_5678_9abc && answer.context == 77)
    #expect(answer.length == 408)
    let plain = try bench.driver.run(.getDisplayInfo)
    #expect(!plain.isFenced && plain.fence == 0)
  }

  @Test func withoutADisplayTheDeviceDescribesItsOwn() throws {
    let bench = try DeviceBench { $0.outputs = 2 }
    let modes = try bench.driver.displayInfo()
    #expect(modes.count { $0.enabled } == 2)
    #expect(modes.first?.rect == Rect(width: 1280, height: 800))
    let edid = try bench.driver.edid(1)
    #expect(edid.prefix(8) == [0, 255, 255, 255, 255, 255, 255, 0])
    // Desktops tell monitors by their serial numbers.
    for output in 0...1 as ClosedRange<UInt32> {
      let own = EDID.make(width: 1280, height: 800, output: Int(output))
      #expect(try bench.driver.edid(output) == own)
    }
    #expect(try bench.front.deviceFeatures() & 0xff == 0b1110, "no 3D; EDID, UUIDs and blobs")
    #expect(try bench.driver.run(.getEDID(16)).response == .invalidScanout)
    #expect(try bench.front.readConfig(offset: 8, count: 4) == [2, 0, 0, 0])
  }

  @Test func theConfigurationHasAnEnd() throws {
    let bench = try DeviceBench()
    #expect(try bench.front.readConfig(offset: 0, count: 256).count == 256)
    for (offset, count) in [(255, 2), (256, 1), (0x7fff_ffff, 200), (8, 256)] {
      #expect(throws: GuestError.self, "\(count) bytes at \(offset)") {
        try bench.front.readConfig(offset: offset, count: count)
      }
    }
    try bench.driver.perform(.getDisplayInfo)
  }

  @Test func aPictureSurvivesItsResource() throws {
    let bench = try DeviceBench(mode: .direct)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let picture = TestPicture.smpte.render(width: 64, height: 64)
    buffer.draw(picture)
    try buffer.show()
    try buffer.flush()
    try buffer.remove()
    buffer.draw(TestPicture.checker.render(width: 64, height: 64))
    let count = bench.seen.frames.count
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(bench.seen.frames.count == count + 1)
    #expect(bench.seen.last?.picture.difference(from: picture) == nil)
    #expect(try bench.driver.run(.flush(1, buffer.bounds)).response == .invalidResource)
  }

  @Test func aResetForgetsEverything() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    try buffer.flush()
    try bench.driver.restart()
    #expect(bench.seen.log.withLock { $0.sizes } == ["0 64x64", "0 off"])
    #expect(try bench.driver.run(.unref(1)).response == .invalidResource)
    #expect(try bench.inDevice { device, _ in device.hostBytes } == 0)
    let again = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try again.show()
    try again.flush()
    #expect(bench.seen.last?.picture.difference(from: again.contents) == nil)
  }

  /// The next guest draws where it is seen until it has shown that it flips.
  @Test func aResetForgetsThatTheGuestFlipped() throws {
    let bench = try DeviceBench(mode: .auto)
    func pair() throws -> [Framebuffer] {
      try [1, 2].map { try Framebuffer(bench.driver, resource: $0, width: 64, height: 64) }
    }
    let flipped = try pair()
    for turn in 0..<6 {
      try flipped[turn % 2].show()
      try flipped[turn % 2].flush()
    }
    let skipped = try bench.inDevice { device, _ in device.counters.transfers }
    #expect(skipped < 6, "it flips")
    try bench.driver.restart()
    let buffer = try pair()[0]
    let first = TestPicture.smpte.render(width: 64, height: 64)
    buffer.draw(first)
    try buffer.show()
    try buffer.flush()
    buffer.draw(TestPicture.checker.render(width: 64, height: 64))
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(bench.seen.last?.picture.difference(from: first) == nil)
  }

  /// Consumers have to let go of what was copied for them.
  @Test func copiesOfAnOutputThatIsOffAreTakenBack() throws {
    let bench = try DeviceBench(mode: .copy)
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    func revoked() -> [RevocationReason] { bench.seen.log.withLock { $0.revoked } }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    try buffer.flush()
    #expect(bench.seen.last?.memory == "copy" && revoked() == [])
    try bench.driver.perform(.setScanout(0, resource: 0, buffer.bounds))
    #expect(revoked() == [.unused])
    try buffer.show()
    try buffer.flush()
    try bench.driver.restart()
    #expect(revoked() == [.unused, .reset])
  }

  @Test func aBlobIsShownWhereItsLayoutSays() throws {
    let bench = try DeviceBench()
    let pages = try bench.driver.ram.allocate(pages: 20)
    let driver = bench.driver
    try driver.perform(.createBlob(9, size: UInt64(pages.byteCount), pages.entries()))
    let row = [UInt8](repeating: 0x5a, count: 256)
    driver.ram.write(row, to: pages, at: 4096 + 512 * 3)
    let area = Rect(width: 64, height: 32)
    var set = GPUCommand.setScanoutBlob(
      0, resource: 9, area, format: .b8g8r8x8, width: 64, height: 32, stride: 512)
    set.put(UInt32(4096), at: 80)
    try driver.perform(set)
    try driver.perform(.flush(9, area))
    let shown = try #require(bench.seen.last)
    #expect(shown.picture[0, 3] == 0x5a_5a5a && shown.picture[63, 3] == 0x5a_5a5a)
    #expect(shown.picture[0, 2] == 0 && shown.picture[0, 4] == 0)
    set.put(UInt32(20 * 4096 - 512 * 31), at: 80)
    #expect(try driver.run(set).response == .invalidParameter)
  }
}
