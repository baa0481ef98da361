import CLinux
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import RenderWire
import Rendering
import Testing

/// vgem allocates memory as a GPU does; by its card, since it lets nobody do so by its render node.
private let card = (0..<16).map { "/dev/dri/card\($0)" }.first {
  RenderNode.driver(of: $0) == "vgem"
}

private let canExport =
  card.map { capabilities("--render-node", $0).contains("\"virgl\"") } ?? false

/// Pictures of a guest's that a renderer exports from the memory of its GPU.
@Suite(.serialized, .enabled(if: canExport, "needs vgem, libvirglrenderer and Mesa"))
struct TwinTests {
  /// A guest that draws one band after another, and what is on its screen.
  private final class Painter {
    static let size: (width: UInt32, height: UInt32) = (300, 200)
    let pinhole: PinholeProcess
    let watcher: NewestFrame
    private let driver: GPUDriver
    private var shown: Rect
    private var pixels: [UInt32]

    init(_ options: [String] = []) throws {
      pinhole = try PinholeProcess(
        // An emulated processor takes its time, to load Mesa and to read pictures.
        [
          "--3d", "--render-node", card ?? "none", "--render-deadline", "100000",
          "--hold-deadline", "10000",
        ] + options)
      var choice = GPUDriver.Options()
      choice.features |= Feature.virgl
      choice.patience = 120_000
      driver = try GPUDriver(
        try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)), choice)
      watcher = try NewestFrame(pinhole.framesSocket)
      shown = Rect(x: 0, y: 0, width: Self.size.width, height: Self.size.height)
      pixels = .init(repeating: 0, count: Int(Self.size.width * Self.size.height))
      try driver.perform(.createContext(1))
      try driver.perform(.create3D(2, target: 0, format: 64, bind: 16, width: 256, height: 1))
      try driver.perform(
        .create3D(
          1, target: 2, format: 2, bind: 0x14_000a, width: shown.width, height: shown.height))
      for id: UInt32 in 1...2 { try driver.perform(.context(1, attach: true, resource: id)) }
      try driver.perform(.setScanout(0, resource: 1, shown))
      // Shaders are compiled once: that takes an emulated processor seconds.
      var stream = VirglStream()
      stream.target(surface: 100, resource: 1, format: 2)
      stream.prepareTriangles(size: Self.size, first: 101)
      try driver.perform(.submit(1, stream.bytes))
    }

    /// Shows another part of the same picture, in memory of another size.
    func crop(_ part: Rect) throws {
      shown = part
      try driver.perform(.setScanout(0, resource: 1, part))
    }

    private func colour(_ pixel: UInt32) -> (Float, Float, Float, Float) {
      (
        Float(pixel >> 16 & 0xff) / 255, Float(pixel >> 8 & 0xff) / 255, Float(pixel & 0xff) / 255,
        1
      )
    }

    /// Fills rows, and flushes these alone.
    func paint(_ pixel: UInt32, rows: Range<UInt32>) throws {
      var stream = VirglStream()
      let height = Float(Self.size.height) / 2
      let (top, end) = (Float(rows.lowerBound) / height - 1, Float(rows.upperBound) / height - 1)
      for corners in [
        [(-1, top), (1, top), (-1, end)], [(-1, end), (1, top), (1, end)],
      ] as [[(Float, Float)]] {
        stream.drawTriangle(corners, colour(pixel), buffer: 2)
      }
      try driver.perform(.submit(1, stream.bytes))
      try driver.perform(
        .flush(
          1,
          Rect(
            x: 0, y: rows.lowerBound, width: Self.size.width,
            height: rows.upperBound - rows.lowerBound)))
      let width = Int(Self.size.width)
      for at in Int(rows.lowerBound) * width..<Int(rows.upperBound) * width { pixels[at] = pixel }
    }

    private var expected: [UInt32] {
      (shown.y..<shown.y + shown.height).flatMap { y in
        let row = Int(y * Self.size.width + shown.x)
        return pixels[row..<row + Int(shown.width)]
      }
    }

    /// The buffer in which the guest's picture is on screen, once it is; a minute is for hangs.
    func shownBuffer() throws -> ReceivedBuffer {
      let bound = Clock.now + 60_000_000_000
      let wanted = expected
      while Clock.now < bound {
        try watcher.take(milliseconds: 100)
        guard let bytes = try watcher.bytes(), bytes.count == wanted.count * 4 else { continue }
        let seen = bytes.withUnsafeBytes { raw in
          wanted.indices.map {
            raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self) & 0xff_ffff
          }
        }
        if seen == wanted, let name = watcher.newest?.buffer,
          let buffer = watcher.consumer.buffers[name]
        {
          return buffer
        }
      }
      throw Errno(ETIMEDOUT, "waiting for the guest's picture on screen")
    }
  }

  /// Who made a dma-buf, by its fdinfo: `drm`, whatever the driver; `udmabuf`.
  private func exporter(of fd: CInt) -> Substring? {
    WholeFile.text("/proc/self/fdinfo/\(fd)")?.split(separator: "\n")
      .first { $0.hasPrefix("exp_name:") }?.split(separator: "\t").last
  }

  @Test func consumersGetWhatTheRendererExports() throws {
    let painter = try Painter()
    let vgem = try Vgem()
    var buffers: Set<BufferName> = []
    try painter.paint(0x10_2030, rows: 0..<Painter.size.height)
    for step in UInt32(0)..<7 {
      let first = step % 8 * 25
      try painter.paint(0x01_0203 * (step + 1), rows: first..<first + 25)
      let buffer = try painter.shownBuffer()
      buffers.insert(buffer.name)
      #expect(buffer.memory == .dmaBuf)
      #expect(exporter(of: buffer.descriptor) == "drm")
      #expect(buffer.modifier == linearModifier && buffer.layout.planes.count == 1)
      #expect(buffer.stride == 1280)
      #expect(ph_drm_imports(vgem.descriptor, buffer.descriptor) == 0)
    }
    // They take turns: what is in each was brought up to date.
    #expect(buffers.count >= 2)
    #expect(painter.pinhole.terminate() == 0, "\(painter.pinhole.log)")
  }

  /// The renderer has its own hold on what it exports, which is nobody's debt.
  @Test func onlyWhoKeepsATwinIsNamed() throws {
    let painter = try Painter()
    try painter.paint(0x10_2030, rows: 0..<Painter.size.height)
    _ = try painter.shownBuffer()
    var part = Rect(x: 16, y: 8, width: 128, height: 64)
    try painter.crop(part)
    try painter.paint(0x40_5060, rows: 0..<50)
    var kept: OwnedFD?
    do {
      let buffer = try painter.shownBuffer()
      #expect(exporter(of: buffer.descriptor) == "drm" && buffer.width == 128)
      kept = try OwnedFD.duplicate(of: buffer.descriptor)
    }
    #expect(try painter.pinhole.waits { $0["kept-buffers"] == 0 })
    #expect(!painter.pinhole.log.contains("stay taken"), "\(painter.pinhole.log)")

    part.width = 192
    try painter.crop(part)
    try painter.paint(0x70_8090, rows: 25..<75)
    _ = try painter.shownBuffer()
    let bound = Clock.now + 60_000_000_000
    while !painter.pinhole.log.contains("host memory stay taken"), Clock.now < bound {
      try painter.watcher.take(milliseconds: 20)
    }
    #expect(painter.pinhole.log.contains("host memory stay taken"), "\(painter.pinhole.log)")
    #expect(try painter.pinhole.counters()["kept-buffers"] == 1)
    kept = nil
    #expect(try painter.pinhole.waits(milliseconds: 60_000) { $0["kept-buffers"] == 0 })
    #expect(painter.pinhole.terminate() == 0, "\(painter.pinhole.log)")
    withExtendedLifetime(kept) {}
  }

  /// Who wants copies, or is given nothing else, gets them from the picture's own memory.
  @Test func copiesAreOfTheSamePicture() throws {
    let painter = try Painter(["--scanout", "copy"])
    try painter.paint(0x10_2030, rows: 0..<Painter.size.height)
    try painter.paint(0x40_5060, rows: 50..<100)
    #expect(try painter.shownBuffer().memory == .copy)
    #expect(painter.pinhole.terminate() == 0, "\(painter.pinhole.log)")
  }
}
