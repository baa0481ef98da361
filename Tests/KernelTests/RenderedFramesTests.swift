import FakeGuest
import Glibc
import Linux
import Pixels
import RenderWire
import Rendering
import Testing

/// What `pinhole serve --print-capabilities` says.
func capabilities(_ options: String...) -> String {
  guard let directory = try? TemporaryDirectory(),
    let out = try? OwnedFD.open(directory.file("out"), O_WRONLY | O_CREAT),
    let child = try? ChildProcess(
      [FakeGuest.Puncher.defaultProgram, "serve", "--print-capabilities"] + options,
      fds: [(out.raw, 1)]),
    child.waitForEnd(milliseconds: 120_000) == 0,
    let text = WholeFile.text(directory.file("out"))
  else { return "" }
  return text
}

/// Whether `pinhole serve` finds a renderer here, on the processor.
let canRender = capabilities("--render-node", "none").contains("\"virgl\"")

/// What a renderer draws, as consumers read it.
@Suite(.serialized, .enabled(if: canRender, "needs libvirglrenderer and Mesa"))
struct RenderedFramesTests {
  private static let size: (width: UInt32, height: UInt32) = (640, 480)
  private static let whole = Rect(x: 0, y: 0, width: size.width, height: size.height)

  /// A guest that fills the picture on screen with one colour after another.
  private final class Painter {
    let pinhole: PinholeProcess
    private let driver: GPUDriver
    private let target: VirglStream
    private(set) var step: UInt32 = 0

    /// What is drawn in a step: no two steps have the same colour, and neighbours are far apart.
    static func colour(_ step: UInt32) -> UInt32 { step &* 0x9e_3779 & 0xff_ffff }

    init(_ options: [String]) throws {
      pinhole = try PinholeProcess(
        // An emulated processor takes its time, to load Mesa and to read pictures.
        [
          "--3d", "--render-node", "none", "--render-deadline", "100000", "--hold-deadline",
          "10000",
        ]
          + options)
      var choice = GPUDriver.Options()
      choice.features |= Feature.virgl
      choice.patience = 120_000
      let ram = try GuestRAM(size: 32 << 20)
      driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram), choice)
      try driver.perform(.createContext(1))
      try driver.perform(
        .create3D(
          1, target: 2, format: 2, bind: 0x14_000a, width: size.width, height: size.height))
      try driver.perform(.context(1, attach: true, resource: 1))
      try driver.perform(.setScanout(0, resource: 1, whole))
      var stream = VirglStream()
      stream.target(surface: 1, resource: 1, format: 2)
      target = stream
      try driver.perform(.submit(1, target.bytes))
    }

    /// Draws and flushes, without waiting for anybody who looks.
    func draw() throws {
      step += 1
      var stream = VirglStream()
      let colour = Self.colour(step)
      func part(_ shift: UInt32) -> Float { Float(colour >> shift & 0xff) / 255 }
      stream.clear((part(16), part(8), part(0), 1))
      try driver.perform(.submit(1, stream.bytes))
      try driver.perform(.flush(1, whole))
    }
  }

  /// What `frame-reader` says.
  private struct Reading {
    /// Frames, how many of them had two colours, how many were copies.
    let counts: [Int]
    /// The colour of each of the others.
    let colours: [UInt32]
  }

  private func read(
    _ way: String, frames: Int, milliseconds: Int, of painter: Painter
  ) throws -> Reading {
    let directory = try TemporaryDirectory()
    let folder = FakeGuest.Puncher.defaultProgram.split(separator: "/").dropLast().joined(
      separator: "/")
    let out = try OwnedFD.open(directory.file("out"), O_WRONLY | O_CREAT)
    let reader = try ChildProcess(
      [
        "/\(folder)/frame-reader", painter.pinhole.framesSocket, way, "\(frames)",
        "\(milliseconds)",
      ], fds: [(out.raw, 1)])
    while reader.status == nil { try painter.draw() }
    let text = String(decoding: try WholeFile.read(directory.file("out")), as: UTF8.self)
    func numbers(_ word: String) -> [UInt32] {
      let line = text.split(separator: "\n").first { $0.hasPrefix(word) } ?? ""
      return line.split { !$0.isNumber }.compactMap { UInt32($0) }
    }
    return Reading(counts: numbers("frames").map { Int($0) }, colours: numbers("colours"))
  }

  /// Each frame has the colour of a step, of those since the reader began, and none is older than
  /// the frame before it.
  private func expectSteps(
    _ reading: Reading, since first: UInt32, of painter: Painter,
    sourceLocation: SourceLocation = #_sourceLocation
  ) {
    var steps: [UInt32: UInt32] = [:]
    for step in first...max(first, painter.step) { steps[Painter.colour(step)] = step }
    let seen = reading.colours.map { steps[$0] ?? 0 }
    #expect(!seen.contains(0), "\(reading.colours)", sourceLocation: sourceLocation)
    #expect(seen == seen.sorted(), sourceLocation: sourceLocation)
    // A late picture may be the next one's already, and no more.
    #expect(Set(seen).count > seen.count / 3, "\(seen)", sourceLocation: sourceLocation)
  }

  @Test func aFrameThatIsHeldIsNeverDrawnInto() throws {
    let painter = try Painter([])
    let held = try read("held", frames: 300, milliseconds: 12, of: painter)
    #expect(held.counts == [300, 0, hasUdmabuf ? 0 : 300])
    expectSteps(held, since: 1, of: painter)
    // The same reader sees it where a frame is not held.
    let early = try read("early", frames: 60, milliseconds: 40, of: painter)
    #expect(early.counts.count == 3 && early.counts[1] > 0, "\(early)")
    #expect(painter.pinhole.terminate() == 0, "\(painter.pinhole.log)")
  }

  /// vgem, vkms and a virtio-gpu without 3D have render nodes, and no GPU.
  @Test func nodesWithoutAGPUAreNotChosen() throws {
    #expect(capabilities().contains("\"virgl\""))
    let drivers = (128..<192).compactMap { RenderNode.driver(of: "/dev/dri/renderD\($0)") }
    let draws = drivers.contains { !["vgem", "vkms", "virtio_gpu"].contains($0) }
    let pinhole = try PinholeProcess(["--3d"])
    // It listens before it says so.
    let deadline = Clock.now + 60_000_000_000
    while !pinhole.log.contains("serves on"), Clock.now < deadline { usleep(10_000) }
    #expect(pinhole.log.contains("3D by virgl on"), "\(pinhole.log)")
    // libvirt would insist on a node that is not there.
    #expect(!capabilities("--render-node", "none").contains("render-node"))
    if !draws {
      #expect(!capabilities().contains("render-node"))
      #expect(RenderNode.first == nil, "\(drivers)")
      #expect(pinhole.log.contains("3D by virgl on the processor"), "\(pinhole.log)")
    }
    #expect(pinhole.terminate() == 0)
  }

  @Test func copiesAreAsWhole() throws {
    let painter = try Painter(["--scanout", "copy"])
    let held = try read("held", frames: 60, milliseconds: 12, of: painter)
    #expect(held.counts == [60, 0, 60])
    expectSteps(held, since: 1, of: painter)
    #expect(painter.pinhole.terminate() == 0, "\(painter.pinhole.log)")
  }
}
