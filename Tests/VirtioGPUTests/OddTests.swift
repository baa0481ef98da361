import FakeGuest
import Pixels
import Testing

@testable import VirtioGPU

/// Pictures that other virtual GPUs had trouble with.
@Suite struct OddTests {
  @Test(arguments: [(1366, 768), (1, 1), (641, 3), (854, 480)])
  func oddSizes(_ size: (width: Int, height: Int)) throws {
    for kind in [Framebuffer.Kind.twoD, .blob] {
      let bench = try DeviceBench(mode: .direct)
      let buffer = try Framebuffer(
        bench.driver, resource: 1, width: size.width, height: size.height, kind: kind,
        placement: .scattered(seed: 3))
      buffer.draw(TestPicture.smpte.render(width: size.width, height: size.height))
      try buffer.show()
      try buffer.flush()
      let shown = try #require(bench.seen.last)
      #expect(shown.picture.difference(from: buffer.contents) == nil)
    }
  }

  @Test func aPictureInThirtyThousandPieces() throws {
    // 8K in single pages, none of which continues the one before.
    let (width, height) = (7680, 4320)
    let bench = try DeviceBench(mode: .direct, ram: try GuestRAM(size: 192 << 20))
    let driver = bench.driver
    let pages = try driver.ram.allocate(bytes: width * height * 4)
    let backwards = GuestPages(pages.addresses.reversed())
    let entries = backwards.entries(merged: false)
    #expect(entries.count == 32_400)
    let all = Rect(width: UInt32(width), height: UInt32(height))
    try driver.perform(.create2D(1, .b8g8r8x8, width: UInt32(width), height: UInt32(height)))
    try driver.perform(.attachBacking(1, entries))
    for row in [0, 1, 2159, 4319] {
      driver.ram.write(
        [UInt8](repeating: UInt8(row % 251 + 1), count: width * 4), to: backwards,
        at: row * width * 4)
    }
    try driver.perform(.setScanout(0, resource: 1, all))
    try driver.perform(.transferToHost2D(1, all, offset: 0))
    try driver.perform(.flush(1, all))
    let picture = try #require(bench.seen.last).picture
    for row in [0, 1, 2159, 4319] {
      let byte = UInt32(row % 251 + 1)
      #expect(picture[0, row] == byte * 0x1_0101 && picture[width - 1, row] == byte * 0x1_0101)
    }
    #expect(picture[0, 2] == 0 && picture[width - 1, 4318] == 0)
  }
}
