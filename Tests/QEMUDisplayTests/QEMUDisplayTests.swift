import Buffers
import Pixels
import Scene
import Testing
import VirtioGPU

@testable import QEMUDisplay

@Suite("QEMU display: pictures")
struct QEMUDisplayTests {
  @Test("A new socket is negotiated and gets everything there is to see")
  func firstSocket() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(64, 32)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach()
    try bench.settle(qemu)
    #expect(qemu.requests.first == .getProtocolFeatures)
    #expect(qemu.requests.contains(.setProtocolFeatures([.edid, .dmabuf2])))
    #expect(qemu.shown.first == .scanout(output: 0, width: 64, height: 32))
    #expect(qemu.shown.count == 2)
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("Only features that both sides know are agreed on")
  func features() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    qemu.features = QEMUWire.Features(rawValue: 0xff00_0001)
    try bench.settle(qemu)
    #expect(qemu.requests == [.getProtocolFeatures, .setProtocolFeatures(.edid)])
  }

  @Test("Every format is shown in its colours", arguments: PixelFormat.allCases)
  func formats(format: PixelFormat) throws {
    let bench = try QEMUBench()
    let canvas = Canvas(301, 233, fourcc: format.fourcc, padding: 20, pieceSize: 4099)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach()
    try bench.settle(qemu)
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("More pieces than one sendmsg takes arrive in order", arguments: [4, 61, 1000])
  func manyPieces(size: Int) throws {
    let bench = try QEMUBench()
    let canvas = Canvas(120, 90, padding: 4, pieceSize: size)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach()
    try bench.settle(qemu)
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("An update has the damage alone, relative to the scanout")
  func damage() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(100, 80)
    bench.source.canvases[2] = canvas
    bench.source.crops[2] = Rect(x: 10, y: 20, width: 60, height: 50)
    let qemu = try bench.attach()
    try bench.settle(qemu)
    canvas.fill(seed: 2)
    bench.present(2, damage: Rect(x: 5, y: 6, width: 7, height: 8))
    try bench.settle(qemu)
    guard case .update(2, let rect, let pixels)? = qemu.shown.last else {
      Issue.record("no update")
      return
    }
    #expect(rect == Rect(x: 5, y: 6, width: 7, height: 8))
    let colors = stride(from: 0, to: pixels.count, by: 4).map { Array(pixels[$0..<$0 + 3]) }
    #expect(colors == canvas.colors(Rect(x: 15, y: 26, width: 7, height: 8)))
  }

  @Test("Damage outside of the output is cut off, and none sends nothing")
  func damageOutside() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(20, 20)
    let qemu = try bench.attach()
    try bench.settle(qemu)
    let before = qemu.shown.count
    bench.present(0, damage: Rect(x: 30, y: 0, width: 5, height: 5))
    bench.present(0, damage: Rect(x: 0, y: 0, width: 0, height: 0))
    try bench.settle(qemu)
    #expect(qemu.shown.count == before)
    bench.present(0, damage: Rect(x: 15, y: 15, width: .max, height: .max))
    try bench.settle(qemu)
    guard case .update(0, let rect, _)? = qemu.shown.last else {
      Issue.record("no update")
      return
    }
    #expect(rect == Rect(x: 15, y: 15, width: 5, height: 5))
  }

  @Test("A new size is announced before its first update, which is whole")
  func resize() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(20, 20)
    let qemu = try bench.attach()
    try bench.settle(qemu)
    let canvas = Canvas(30, 10)
    bench.source.canvases[0] = canvas
    bench.show(0, damage: Rect(x: 1, y: 1, width: 1, height: 1))
    try bench.settle(qemu)
    #expect(qemu.shown.count == 4)
    #expect(qemu.shown[2] == .scanout(output: 0, width: 30, height: 10))
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("A size that nothing is shown in is never announced")
  func sizesAlone() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    for width: UInt32 in 1...50 { bench.display.output(0, resized: (width, 10)) }
    try bench.settle(qemu)
    #expect(qemu.shown.isEmpty)
  }

  @Test("An output that goes off is disabled once")
  func disable() throws {
    let bench = try QEMUBench()
    bench.source.canvases[1] = Canvas(20, 20)
    let qemu = try bench.attach()
    bench.source.canvases[1] = nil
    bench.display.output(1, resized: nil)
    bench.display.output(1, resized: nil)
    bench.display.output(0, resized: nil)
    try bench.settle(qemu)
    #expect(qemu.shown.count == 3)
    #expect(qemu.shown.last == .scanout(output: 1, width: 0, height: 0))
    bench.source.canvases[1] = Canvas(20, 20)
    bench.show(1)
    try bench.settle(qemu)
    #expect(qemu.shown[3] == .scanout(output: 1, width: 20, height: 20))
    #expect(QEMUScreen(qemu.requests).faults == 0)
  }

  @Test("Each new socket gets everything again, and the old one is closed")
  func newSockets() throws {
    let bench = try QEMUBench()
    let first = Canvas(40, 30)
    let second = Canvas(50, 20)
    bench.source.canvases = [0: first, 3: second]
    var old: FakeQEMU?
    for seed: UInt32 in 1...3 {
      first.fill(seed: seed)
      let qemu = try bench.attach()
      try bench.settle(qemu)
      let screen = QEMUScreen(qemu.requests)
      #expect(screen.colors(0) == first.colors(bench.source.crop(0)))
      #expect(screen.colors(3) == second.colors(bench.source.crop(3)))
      #expect(screen.faults == 0)
      old?.serve()
      #expect(old?.sawEnd != false)
      old = qemu
    }
    #expect(bench.display.counters.sockets == 3)
    let sent = bench.display.counters.bytesSent
    #expect(sent > 3 * 4 * (40 * 30 + 50 * 20))
    bench.display.detach()
    #expect(bench.display.counters.bytesSent == sent, "it counts since the start")
  }

  @Test("Frames that QEMU cannot take are left out")
  func unshowable() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    let canvas = Canvas(10, 10)
    let pixels = try #require(canvas.pixels)
    let layouts = [
      PixelLayout(width: 10, height: 10, stride: 39, fourcc: .xrgb8888),
      PixelLayout(width: 10, height: 10, stride: 40, fourcc: FourCC("N", "V", "1", "2")),
      PixelLayout(width: 10, height: 5, stride: 40, fourcc: .xrgb8888),
    ]
    let bad = layouts.compactMap { PixelSource(layout: $0, spans: pixels.spans) }
    #expect(bad.count == 3)
    let whole = Rect(x: 0, y: 0, width: 10, height: 10)
    for source in bad {
      bench.display.present(
        Commit(output: 0, crop: whole, damage: whole, pixels: source, buffer: nil, lock: nil))
    }
    for (output, crop) in [
      (0, Rect(x: 5, y: 0, width: 6, height: 1)), (0, Rect(x: 0, y: 0, width: 0, height: 0)),
      (0, Rect(x: .max, y: .max, width: .max, height: .max)), (16, whole), (-1, whole),
    ] {
      bench.display.present(
        Commit(output: output, crop: crop, damage: crop, pixels: pixels, buffer: nil, lock: nil))
    }
    bench.display.output(-1, resized: (1, 1))
    try bench.settle(qemu)
    #expect(qemu.shown.isEmpty)
    #expect(bench.display.isAttached)
  }
}
