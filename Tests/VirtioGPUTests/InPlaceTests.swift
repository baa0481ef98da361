import FakeGuest
import GPUCommands
import Glibc
import Linux
import Pixels
import Scene
import Testing

@testable import VirtioGPU

/// Pictures that the guest draws into while they are on screen: a display that looks late sees what
/// was flushed.
@Suite struct InPlaceTests {
  /// A small picture in memory of its own, one in a file, and one that is copied in parts.
  private static let sizes = [(64, 64), (640, 480), (4096, 1032)]

  private func bench(_ size: (Int, Int)) throws -> (DeviceBench, Framebuffer) {
    let bench = try DeviceBench(mode: .copy)
    _ = try bench.inDevice { _, recorder in recorder.isForgetful = true }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: size.0, height: size.1)
    return (bench, buffer)
  }

  /// The guest makes all pixels the same.
  private func draw(_ colour: UInt32, _ buffer: Framebuffer, _ bench: DeviceBench) {
    [UInt32](repeating: colour, count: buffer.width * buffer.height).withUnsafeBytes {
      bench.driver.ram.write($0, to: buffer.pages)
    }
  }

  private func transfer(_ rect: Rect, of buffer: Framebuffer, _ bench: DeviceBench) throws {
    let offset = UInt64(rect.y) * UInt64(buffer.stride) + UInt64(rect.x) * 4
    try bench.driver.perform(.transferToHost2D(buffer.resource, rect, offset: offset))
  }

  /// What a display sees that looks now.
  private func look(_ bench: DeviceBench, at output: Int = 0) throws -> [UInt32] {
    try bench.inDevice { device, _ in
      guard let (source, crop) = device.scene.pixels(output) else { return [] }
      var pixels = [UInt32](repeating: 0, count: Int(crop.width) * Int(crop.height))
      pixels.withUnsafeMutableBytes { bytes in
        guard let base = bytes.baseAddress else { return }
        source.copy(crop, to: base, stride: Int(crop.width) * 4)
      }
      return pixels
    }
  }

  /// The colour that a display sees; nil where it sees several.
  private func colour(_ bench: DeviceBench, at output: Int = 0) throws -> UInt32? {
    let pixels = try look(bench, at: output)
    let isPlain = pixels.withUnsafeBytes {
      guard let base = $0.baseAddress else { return false }
      return memcmp(base, base + 4, $0.count - 4) == 0
    }
    return isPlain ? pixels.first : nil
  }

  private func hostBytes(_ bench: DeviceBench) throws -> UInt64 {
    try bench.inDevice { device, _ in device.hostBytes }
  }

  @Test("Between two transfers of a frame", arguments: sizes)
  func betweenTransfers(_ size: (Int, Int)) throws {
    let (bench, buffer) = try bench(size)
    try buffer.show()
    let top = buffer.bounds.first(rows: buffer.bounds.height - 4)
    let rest = buffer.bounds.dropping(rows: top.height)
    for number in 1...4 as ClosedRange<UInt32> {
      draw(number, buffer, bench)
      try transfer(top, of: buffer, bench)
      if number > 1 { #expect(try colour(bench) == number - 1) }
      try transfer(rest, of: buffer, bench)
      if number > 1 { #expect(try colour(bench) == number - 1) }
      try bench.driver.perform(.flush(1, buffer.bounds))
      #expect(try colour(bench) == number)
    }
  }

  @Test("Small changes one after another, each elsewhere")
  func smallChanges() throws {
    let (bench, buffer) = try bench((128, 96))
    try buffer.show()
    draw(0, buffer, bench)
    try buffer.flush()
    var expected = [UInt32](repeating: 0, count: 128 * 96)
    for step in 0..<12 as Range<UInt32> {
      draw(step + 1, buffer, bench)
      let rect = Rect(x: step * 8, y: step * 6, width: 30, height: 20)
      try transfer(rect, of: buffer, bench)
      let between = try look(bench)
      #expect(between == expected)
      try bench.driver.perform(.flush(1, rect))
      for y in rect.y..<rect.y + rect.height {
        for x in rect.x..<rect.x + rect.width { expected[Int(y * 128 + x)] = step + 1 }
      }
      let after = try look(bench)
      #expect(after == expected)
    }
  }

  @Test("An output that a flush passes over goes on showing what it showed")
  func passedOver() throws {
    let (bench, buffer) = try bench((640, 480))
    let left = Rect(width: 320, height: 480)
    let right = Rect(x: 320, y: 0, width: 320, height: 480)
    try bench.driver.perform(.setScanout(0, resource: 1, left))
    try bench.driver.perform(.setScanout(1, resource: 1, right))
    draw(1, buffer, bench)
    try buffer.flush()
    for number in 2...4 as ClosedRange<UInt32> {
      draw(number, buffer, bench)
      try buffer.flush(left)
    }
    // Written, and not flushed.
    try transfer(right, of: buffer, bench)
    #expect(try colour(bench, at: 0) == 4)
    #expect(try colour(bench, at: 1) == 1)
  }

  @Test("A cursor is what was transferred last, flushed or not")
  func cursor() throws {
    let (bench, buffer) = try bench((64, 64))
    try buffer.show()
    draw(1, buffer, bench)
    try buffer.flush()
    draw(2, buffer, bench)
    try transfer(buffer.bounds, of: buffer, bench)
    try bench.driver.perform(.updateCursor(0, resource: 1, x: 0, y: 0))
    let blue = bench.seen.log.withLock { $0.cursors.last?.pixels?.first }
    #expect(blue == 2)
    #expect(try colour(bench) == 1)
  }

  @Test("What outlives its resource is the flushed picture, and pays for one")
  func unreferenced() throws {
    let (bench, buffer) = try bench((640, 480))
    let size: UInt64 = 640 * 480 * 4
    let before = try hostBytes(bench)
    try buffer.show()
    for number in 1...2 as ClosedRange<UInt32> {
      draw(number, buffer, bench)
      try buffer.flush()
    }
    draw(3, buffer, bench)
    try transfer(buffer.bounds, of: buffer, bench)
    // The first was paid for when the resource was made.
    #expect(try hostBytes(bench) == before + size)
    try bench.driver.perform(.unref(1))
    #expect(try colour(bench) == 2)
    #expect(try hostBytes(bench) == size)
  }

  @Test("The second picture of a resource keeps no other from being made")
  func givenBack() throws {
    let size: UInt64 = 512 * 512 * 4
    // A little more for lists of pages.
    let bench = try DeviceBench(mode: .copy) { $0.hostMemory = 3 * size + 65_536 }
    _ = try bench.inDevice { _, recorder in recorder.isForgetful = true }
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 512, height: 512)
    let before = try hostBytes(bench)
    try buffer.show()
    for _ in 0..<3 { try buffer.flush() }
    #expect(try hostBytes(bench) == before + size)
    try bench.driver.perform(.create2D(2, .b8g8r8x8, width: 512, height: 1024))
    #expect(try hostBytes(bench) == before + 2 * size)
    // It is drawn into all the same.
    draw(7, buffer, bench)
    try buffer.flush()
    #expect(try colour(bench) == 7)
  }

  @Test("Pages that go in the middle of a frame leave what was flushed")
  func lostPages() throws {
    let (bench, buffer) = try bench((640, 480))
    try buffer.show()
    draw(1, buffer, bench)
    try buffer.flush()
    draw(2, buffer, bench)
    try transfer(buffer.bounds.first(rows: 100), of: buffer, bench)
    try bench.driver.perform(.detachBacking(1))
    #expect(try colour(bench) == 1)
    // What was transferred is shown with the next flush.
    try bench.driver.perform(.flush(1, buffer.bounds))
    let pixels = try look(bench)
    #expect(pixels[640 * 100 - 1] == 2)
    #expect(pixels[640 * 100] == 1)
  }
}
