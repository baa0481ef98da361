import Buffers
import FakeGuest
import GuestMemory
import Linux
import Pixels
import Testing

@testable import VirtioGPU

/// Blobs on screen: layouts, outputs, and pages that are exchanged under them.
@Suite struct BlobTests {
  private func set(
    _ output: UInt32, _ rect: Rect, width: UInt32, height: UInt32, stride: UInt32,
    offset: UInt32 = 0
  ) -> GPUCommand {
    var command = GPUCommand.setScanoutBlob(
      output, resource: 1, rect, format: .b8g8r8x8, width: width, height: height, stride: stride)
    command.put(offset, at: 80)
    return command
  }

  @Test func aPictureBeginsWhereTheGuestSays() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 128, height: 64, kind: .blob)
    buffer.draw(TestPicture.gradient.render(width: 128, height: 64))
    let rect = Rect(x: 2, y: 1, width: 16, height: 8)
    let offset: UInt32 = 4096 * 2 + 512 * 3 + 40
    try bench.driver.perform(
      set(0, rect, width: 100, height: 20, stride: 512, offset: offset))
    try bench.driver.perform(.flush(1, rect))
    let shown = try #require(bench.seen.last)
    #expect(shown.picture.width == 16 && shown.picture.height == 8)
    #expect(shown.picture[0, 0] == buffer.contents[12, 20])
    #expect(shown.picture[15, 7] == buffer.contents[27, 27])
  }

  @Test(
    arguments: [
      (100, 20, 398, 0), (100, 20, 402, 0), (100, 20, 400, 2), (100, 20, 400, 32768),
      (100, 82, 400, 0), (0, 20, 400, 0), (100, 0, 400, 0), (.max, 1, .max, 0),
      (100, 20, 400, .max), (1, 1, .max, 0),
    ] as [(UInt32, UInt32, UInt32, UInt32)])
  func layoutsThatCannotBeAreRefused(
    _ width: UInt32, _ height: UInt32, _ stride: UInt32, _ offset: UInt32
  ) throws {
    let bench = try DeviceBench()
    _ = try Framebuffer(bench.driver, resource: 1, width: 128, height: 64, kind: .blob)
    let command = set(
      0, .init(width: 1, height: 1), width: width, height: height, stride: stride, offset: offset)
    #expect(try bench.driver.run(command).response == .invalidParameter)
    #expect(bench.seen.log.withLock { $0.sizes.isEmpty })
  }

  /// What the frame protocol can say of a stride is what a guest may say.
  @Test func aStrideThatNoConsumerTakesIsRefused() throws {
    let bench = try DeviceBench()
    _ = try Framebuffer(bench.driver, resource: 1, width: 512, height: 256, kind: .blob)
    let part = Rect(width: 1, height: 1)
    for (stride, answer) in [
      (PictureLimits.stride + 4, GPUResponse.invalidParameter), (PictureLimits.stride, .ok),
    ] {
      let command = set(0, part, width: 64, height: 1, stride: stride)
      #expect(try bench.driver.run(command).response == answer, "stride \(stride)")
    }
    #expect(bench.seen.log.withLock { $0.sizes } == ["0 1x1"])
  }

  @Test func oneBlobOnSeveralOutputs() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 128, height: 64, kind: .blob)
    buffer.draw(TestPicture.gradient.render(width: 128, height: 64))
    for output in 0..<16 as Range<UInt32> {
      let part = Rect(x: output * 8, y: 0, width: 8, height: 64)
      try bench.driver.perform(set(output, part, width: 128, height: 64, stride: 512))
    }
    try buffer.flush()
    #expect(bench.seen.frames.map(\.output) == Array(0..<16))
    for frame in bench.seen.frames {
      #expect(frame.picture[3, 9] == buffer.contents[frame.output * 8 + 3, 9])
    }
  }

  @Test func anotherLayoutDarkensOutputsThatItLeavesOut() throws {
    let bench = try DeviceBench()
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 128, height: 64, kind: .blob)
    buffer.draw(TestPicture.gradient.render(width: 128, height: 64))
    try bench.driver.perform(
      set(0, .init(x: 64, y: 0, width: 64, height: 64), width: 128, height: 64, stride: 512))
    try buffer.flush()
    try bench.driver.perform(
      set(1, .init(width: 32, height: 32), width: 32, height: 32, stride: 512))
    #expect(bench.seen.log.withLock { $0.sizes } == ["0 64x64", "0 off", "1 32x32"])
    try bench.driver.perform(.flush(1, .init(width: 32, height: 32)))
    #expect(bench.seen.last?.output == 1)
  }

  @Test func whatWasFlushedFirstIsNotAllThatIsShown() throws {
    let bench = try DeviceBench()
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = true }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64, kind: .blob)
    buffer.draw(TestPicture.smpte.render(width: 64, height: 64))
    try bench.driver.perform(
      set(0, .init(width: 64, height: 32), width: 64, height: 32, stride: 256))
    try bench.driver.perform(.flush(1, .init(width: 64, height: 32)))
    try bench.driver.perform(
      set(0, .init(width: 64, height: 32), width: 64, height: 32, stride: 256, offset: 8192))
    try bench.driver.perform(.flush(1, .init(width: 1, height: 1)))
    let shown = try #require(bench.seen.last)
    #expect(shown.damage == Rect(x: 0, y: 0, width: 64, height: 32))
    #expect(shown.picture[63, 31] == buffer.contents[63, 63])
  }

  @Test(arguments: [false, true])
  func otherPagesForTheSameBlob(consumers: Bool) throws {
    let bench = try DeviceBench()
    _ = try bench.inDevice { _, recorder in recorder.wantsBuffers = consumers }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64, kind: .blob)
    let first = TestPicture.smpte.render(width: 64, height: 64)
    buffer.draw(first)
    try buffer.show()
    try buffer.flush()
    try bench.driver.perform(.detachBacking(1))
    // The guest uses its pages for something else now; the screen keeps the picture.
    buffer.draw(TestPicture.checker.render(width: 64, height: 64))
    _ = try bench.inDevice { _, recorder in recorder.lookAgain() }
    #expect(bench.seen.last?.picture.difference(from: first) == nil)
    let others = try bench.driver.ram.allocate(bytes: 64 * 64 * 4)
    let second = TestPicture.gradient.render(width: 64, height: 64)
    second.pixels.withUnsafeBytes { bench.driver.ram.write($0, to: others) }
    try bench.driver.perform(.attachBacking(1, others.entries()))
    try buffer.flush()
    #expect(bench.seen.last?.picture.difference(from: second) == nil)
  }

  @Test func aWindowHasWholePages() throws {
    let file = SharedFD(try MemFD.create("window", size: 1 << 20))
    let memory = GuestMemory()
    try memory.add(
      MemoryRegion(guestAddress: 0, size: 1 << 20, userAddress: 0, fileOffset: 0), file)
    let entries: [(address: UInt64, count: UInt32)] = [(0x10000, 0x4000), (0x40000, 0x4000)]
    let backing = try Backing(entries: entries, in: memory, HostBudget(limit: 4096))
    func layout(_ offset: UInt64) -> PixelLayout {
      PixelLayout(width: 64, height: 16, stride: 256, offset: offset, fourcc: .xrgb8888)
    }
    func window(_ offset: UInt64) -> (UInt64, [[UInt64]]) {
      let (moved, ranges) = backing.window(layout(offset))
      return (moved.offset, ranges.map { [$0.offset, $0.count] })
    }
    #expect(window(0) == (0, [[0x10000, 0x1000]]))
    #expect(window(0x1000) == (0, [[0x11000, 0x1000]]))
    #expect(window(0x3010) == (0x10, [[0x13000, 0x1000], [0x40000, 0x1000]]))
    #expect(window(0x7000) == (0, [[0x43000, 0x1000]]))
  }
}

private func == (a: (UInt64, [[UInt64]]), b: (UInt64, [[UInt64]])) -> Bool {
  a.0 == b.0 && a.1 == b.1
}
