import Buffers
import Scene
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: cursors")
struct QEMUCursorTests {
  private func image(_ width: UInt32, _ height: UInt32, serial: UInt64 = 1) -> CursorImage {
    let pixels = (0..<Int(width * height) * 4).map { UInt8(truncatingIfNeeded: $0 * 7 + 1) }
    return CursorImage(width: width, height: height, pixels: pixels, serial: serial)
  }

  private func state(
    _ image: CursorImage?, x: Int32 = 10, y: Int32 = -3, hot: (UInt32, UInt32) = (4, 5)
  ) -> CursorState {
    CursorState(output: 1, x: x, y: y, hotX: hot.0, hotY: hot.1, image: image)
  }

  @Test("An image is sent once, then positions")
  func moves() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    let image = image(64, 64)
    bench.display.cursor(state(image), imageChanged: true)
    bench.display.cursor(state(image, x: 11), imageChanged: false)
    bench.display.cursor(state(image, x: 11, y: 9), imageChanged: false)
    bench.display.cursor(state(nil, x: 11), imageChanged: true)
    bench.display.cursor(state(image, x: 12), imageChanged: true)
    try bench.settle(qemu)
    #expect(
      qemu.shown == [
        .cursorUpdate(output: 1, x: 10, y: -3, hotX: 4, hotY: 5, pixels: image.pixels),
        .cursorPosition(output: 1, x: 11, y: -3, visible: true),
        .cursorPosition(output: 1, x: 11, y: 9, visible: true),
        .cursorPosition(output: 1, x: 11, y: -3, visible: false),
        .cursorUpdate(output: 1, x: 12, y: -3, hotX: 4, hotY: 5, pixels: image.pixels),
      ])
  }

  @Test("A cursor that was never shown is not hidden, one of an earlier socket is")
  func hidden() throws {
    let bench = try QEMUBench()
    let first = try bench.attach()
    bench.display.cursor(state(nil), imageChanged: true)
    bench.display.cursor(state(nil, x: 20), imageChanged: false)
    try bench.settle(first)
    #expect(first.shown.isEmpty)
    bench.display.cursor(state(image(64, 64)), imageChanged: true)
    first.close()
    try bench.turn { !bench.display.isAttached }
    bench.display.cursor(state(nil), imageChanged: true)
    let second = try bench.attach()
    bench.display.cursor(state(nil, x: 30), imageChanged: false)
    bench.display.cursor(state(nil, x: 40), imageChanged: false)
    try bench.settle(second)
    #expect(second.shown == [.cursorPosition(output: 1, x: 10, y: -3, visible: false)])
  }

  @Test("A new hot spot or image is sent with the pixels")
  func changes() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    for (serial, hot) in [(1, (4, 5)), (1, (1, 5)), (1, (1, 1)), (2, (1, 1))]
      as [(UInt64, (UInt32, UInt32))]
    {
      bench.display.cursor(
        state(image(64, 64, serial: serial), hot: hot), imageChanged: serial == 2)
      try bench.settle(qemu)
    }
    let spots = qemu.shown.compactMap { request -> [UInt32]? in
      if case .cursorUpdate(1, _, _, let x, let y, _) = request { [x, y] } else { nil }
    }
    #expect(spots == [[4, 5], [1, 5], [1, 1], [1, 1]])
  }

  @Test(
    "Other sizes are padded or cut off to 64 x 64",
    arguments: [(32, 32), (16, 100), (100, 16), (64, 63), (256, 256), (1, 1), (0, 0)]
      as [(UInt32, UInt32)])
  func sizes(width: UInt32, height: UInt32) throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    let image = image(width, height)
    bench.display.cursor(state(image, hot: (70, 3)), imageChanged: true)
    try bench.settle(qemu)
    guard case .cursorUpdate(1, _, _, let hotX, let hotY, let pixels)? = qemu.shown.last else {
      Issue.record("no cursor")
      return
    }
    #expect(hotX == 63 && hotY == 3)
    for y in 0..<64 {
      for x in 0..<64 {
        let at = (y * 64 + x) * 4
        let from = (y * Int(width) + x) * 4
        let inside = x < Int(width) && y < Int(height)
        let expected = inside ? Array(image.pixels[from..<from + 4]) : [0, 0, 0, 0]
        #expect(Array(pixels[at..<at + 4]) == expected)
      }
    }
  }

  @Test("An image shorter than it says is shown as far as it goes")
  func shortImage() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    let short = CursorImage(width: 64, height: 64, pixels: [1, 2, 3], serial: 1)
    bench.display.cursor(state(short), imageChanged: true)
    try bench.settle(qemu)
    #expect(qemu.shown.count == 1)
  }

  @Test("A new socket gets the cursor again")
  func newSocket() throws {
    let bench = try QEMUBench()
    let image = image(64, 64)
    bench.source.cursors[1] = state(image)
    for _ in 0..<2 {
      let qemu = try bench.attach()
      try bench.settle(qemu)
      #expect(
        qemu.shown == [
          .cursorUpdate(output: 1, x: 10, y: -3, hotX: 4, hotY: 5, pixels: image.pixels)
        ])
    }
  }

  @Test("Behind a full socket only the last position is kept")
  func coalesced() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(200, 150)
    let qemu = try bench.attach(sendBuffer: 1)
    let image = image(64, 64)
    for x: Int32 in 0..<1000 {
      bench.display.cursor(state(image, x: x), imageChanged: x == 0)
    }
    #expect(bench.display.bytesWaiting <= 200 * 150 * 4 + 100)
    try bench.settle(qemu)
    #expect(
      qemu.shown.last
        == .cursorUpdate(output: 1, x: 999, y: -3, hotX: 4, hotY: 5, pixels: image.pixels))
    #expect(qemu.shown.count == 3)
  }
}
