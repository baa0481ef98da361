import Buffers
import FakeGuest
import Glibc
import Linux
import Pixels
import RenderWire
import Testing

/// What a renderer draws, as QEMU's OpenGL display gets it: a dma-buf, not pixels.
@Suite(
  .serialized, .enabled(if: canRender, "needs libvirglrenderer and Mesa"),
  .enabled(if: hasUdmabuf, "needs /dev/udmabuf"))
struct RenderedQEMUTests {
  /// Rows of the guest's picture have 1200 bytes, those of the dma-buf a multiple of 256.
  private static let size: (width: UInt32, height: UInt32) = (300, 200)
  private static let whole = Rect(x: 0, y: 0, width: size.width, height: size.height)
  private static let vertices: UInt32 = 20

  /// One colour, and another one at the top left: upside down or mirrored it is another picture.
  private func looks(_ ground: UInt32, _ corner: UInt32) -> Raster {
    let (width, height) = (Int(Self.size.width), Int(Self.size.height))
    let pixels = (0..<width * height).map {
      $0 / width < height / 4 && $0 % width < width / 2 ? corner : ground
    }
    return Raster(width: width, height: height, pixels: pixels)
  }

  private func colour(_ pixel: UInt32) -> (Float, Float, Float, Float) {
    func part(_ shift: UInt32) -> Float { Float(pixel >> shift & 0xff) / 255 }
    return (part(16), part(8), part(0), 1)
  }

  private func prepare(_ driver: GPUDriver) throws {
    try driver.perform(.createContext(1))
    try driver.perform(
      .create3D(Self.vertices, target: 0, format: 64, bind: 16, width: 256, height: 1))
    try driver.perform(
      .create3D(
        11, target: 2, format: 2, bind: 0x14_000a, width: Self.size.width,
        height: Self.size.height))
    for id in [Self.vertices, 11] {
      try driver.perform(.context(1, attach: true, resource: id))
    }
    try driver.perform(.setScanout(0, resource: 11, Self.whole))
    var stream = VirglStream()
    stream.target(surface: 1, resource: 11, format: 2)
    stream.prepareTriangles(size: Self.size, first: 2)
    try driver.perform(.submit(1, stream.bytes))
  }

  private func draw(_ ground: UInt32, _ corner: UInt32, _ driver: GPUDriver) throws {
    var stream = VirglStream()
    stream.clear(colour(ground))
    stream.drawTriangle(
      [(-1, -1), (0, -1), (-1, -0.5), (-1, -0.5), (0, -1), (0, -0.5)], colour(corner),
      buffer: Self.vertices)
    try driver.perform(.submit(1, stream.bytes))
    try driver.perform(.flush(11, Self.whole))
  }

  /// The pixels of a dma-buf, as its message describes them.
  private func picture(_ shown: FakeDisplay.DMABuf) throws -> Raster {
    let view = try DmaBufView(shown.fd)
    let (width, height) = (Int(shown.rect.width), Int(shown.rect.height))
    try #require(shown.stride >= width * 4 && shown.stride * height <= view.count)
    let pixels = try view.read { bytes in
      (0..<width * height).map {
        bytes.loadUnaligned(
          fromByteOffset: $0 / width * shown.stride + $0 % width * 4, as: UInt32.self)
      }
    }
    return Raster(width: width, height: height, pixels: pixels)
  }

  @Test("With its stride, format and modifier, and the right pixels", arguments: [true, false])
  func imported(_ knowsModifiers: Bool) throws {
    let pinhole = try PinholeProcess([
      "--3d", "--render-node", "none", "--render-deadline", "100000", "--qemu-display", "dmabuf",
    ])
    var options = VhostUserFrontEnd.Options()
    options.behaviour.protocolFeatures = knowsModifiers ? 3 : 1
    var choice = GPUDriver.Options()
    choice.features |= Feature.virgl
    choice.patience = 120_000
    let ram = try GuestRAM(size: 16 << 20)
    let front = try VhostUserFrontEnd(path: pinhole.socket, ram: ram, options)
    let driver = try GPUDriver(front, choice)
    let display = try #require(front.display)
    try prepare(driver)
    var files: Set<FileFacts.Identity> = []
    for step in UInt32(1)...20 {
      let (ground, corner) = (0x10_2030 + step, 0xf0_e0d0 - step << 8)
      let wanted = looks(ground, corner)
      try draw(ground, corner, driver)
      func isShown(_ state: FakeDisplay.State) -> Bool {
        guard let shown = state.surfaces[0]?.dmabuf else { return false }
        return (try? picture(shown)) == wanted
      }
      try #require(
        display.wait(milliseconds: 60_000, isShown), "frame \(step): \(pinhole.log)")
      let shown = try #require(display.now.surfaces[0]?.dmabuf)
      #expect(shown.rect == Self.whole && shown.stride == 1280)
      #expect(shown.fourcc == FourCC.xrgb8888.rawValue)
      #expect(shown.modifier == (knowsModifiers ? 0 : nil))
      files.insert(try FileFacts(of: shown.fd.raw).identity)
    }
    #expect(files.count > 1, "QEMU never keeps what is drawn into")
    #expect(display.now.violations == [])
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
