import FakeGuest
import FrameProtocol
import Glibc
import Linux
import Pixels
import RenderWire
import Testing

/// A guest with 3D on more than one output, as consumers see it.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct TwoOutputsTests {
  /// A picture in the renderer: one colour all over and another in the top corner on one side, so
  /// that what is upside down, mirrored or shifted is another picture.
  private struct Picture {
    let id: UInt32
    let size: (width: UInt32, height: UInt32)
    let isLeft: Bool

    var all: Rect { Rect(x: 0, y: 0, width: size.width, height: size.height) }

    /// What it looks like, or a part of it.
    func looks(_ ground: UInt32, _ corner: UInt32, in part: Rect? = nil) -> Raster {
      let part = part ?? all
      var pixels: [UInt32] = []
      for y in part.y..<(part.y + part.height) {
        for x in part.x..<(part.x + part.width) {
          let isInside = y < size.height / 4 && (x < size.width / 2) == isLeft
          pixels.append(isInside ? corner : ground)
        }
      }
      return Raster(width: Int(part.width), height: Int(part.height), pixels: pixels)
    }
  }

  private let left = Picture(id: 11, size: (320, 200), isLeft: true)
  private let right = Picture(id: 12, size: (256, 128), isLeft: false)
  private let context: UInt32 = 3
  private let vertices: UInt32 = 20

  private func colour(_ pixel: UInt32) -> (Float, Float, Float, Float) {
    (
      Float(pixel >> 16 & 0xff) / 255, Float(pixel >> 8 & 0xff) / 255, Float(pixel & 0xff) / 255, 1
    )
  }

  private func prepare(_ driver: GPUDriver) throws {
    try driver.perform(.createContext(context))
    try driver.perform(
      .create3D(vertices, target: 0, format: 64, bind: 16, width: 256, height: 1))
    try driver.perform(.context(context, attach: true, resource: vertices))
    for (output, picture) in [left, right].enumerated() {
      try driver.perform(
        .create3D(
          picture.id, target: 2, format: 2, bind: 0x14_000a, width: picture.size.width,
          height: picture.size.height))
      try driver.perform(.context(context, attach: true, resource: picture.id))
      try driver.perform(.setScanout(UInt32(output), resource: picture.id, picture.all))
    }
  }

  private func draw(
    _ picture: Picture, _ ground: UInt32, _ corner: UInt32, first: UInt32, _ driver: GPUDriver
  ) throws {
    var stream = VirglStream()
    stream.target(surface: first, resource: picture.id, format: 2)
    stream.clear(colour(ground))
    stream.prepareTriangles(size: picture.size, first: first + 1)
    let (near, far): (Float, Float) = picture.isLeft ? (-1, 0) : (0, 1)
    stream.drawTriangle(
      [(near, -1), (far, -1), (near, -0.5), (near, -0.5), (far, -1), (far, -0.5)],
      colour(corner), buffer: vertices)
    try driver.perform(.submit(context, stream.bytes))
    try driver.perform(.flush(picture.id, picture.all))
  }

  @Test func eachShowsItsOwnPicture() throws {
    let pinhole = try PinholeProcess(["--3d", "--render-node", "none"])
    let ram = try GuestRAM(size: 16 << 20)
    var choice = GPUDriver.Options()
    choice.features |= Feature.virgl
    choice.patience = 120_000
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram), choice)
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    try prepare(driver)
    // Taking turns: no frame of one output may be another's, nor wait for it.
    for step in UInt32(0)..<20 {
      let first = 100 + step * 20
      try draw(left, 0x10_0000 + step, 0xff_ff00, first: first, driver)
      try draw(right, 0x00_1000 + step, 0x00_ffff, first: first + 10, driver)
    }
    let (a, b) = (left.looks(0x10_0013, 0xff_ff00), right.looks(0x00_1013, 0x00_ffff))
    #expect(watcher.difference(from: a, output: 0, milliseconds: 60_000) == nil)
    #expect(watcher.difference(from: b, output: 1, milliseconds: 60_000) == nil)

    // Both show parts of one picture.
    let upper = Rect(x: 96, y: 24, width: 128, height: 64)
    let lower = Rect(x: 0, y: 40, width: 256, height: 160)
    try driver.perform(.setScanout(0, resource: left.id, upper))
    try driver.perform(.setScanout(1, resource: left.id, lower))
    try draw(left, 0x20_3040, 0xf0_e0d0, first: 900, driver)
    let c = left.looks(0x20_3040, 0xf0_e0d0, in: upper)
    let d = left.looks(0x20_3040, 0xf0_e0d0, in: lower)
    #expect(watcher.difference(from: c, output: 0, milliseconds: 60_000) == nil)
    #expect(watcher.difference(from: d, output: 1, milliseconds: 60_000) == nil)

    // One goes dark, the other one goes on.
    try driver.perform(.setScanout(0, resource: 0, Rect(x: 0, y: 0, width: 0, height: 0)))
    #expect(watcher.wait(milliseconds: 60_000) { $0.outputs[0]?.isEnabled == false })
    try draw(left, 0x01_0203, 0x04_0506, first: 920, driver)
    let e = left.looks(0x01_0203, 0x04_0506, in: lower)
    #expect(watcher.difference(from: e, output: 1, milliseconds: 60_000) == nil)
    #expect(watcher.now.failure == nil)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
