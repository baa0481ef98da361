import Buffers
import Fences
import Pixels
import Scene
import Testing

@testable import QEMUDisplay

/// QEMU replaces its display socket at each start and goes on showing what it had: the next socket
/// says what is gone.
@Suite("QEMU display: what outlives a socket")
struct QEMUReplacedSocketTests {
  private let layout = PixelLayout(width: 64, height: 32, stride: 256, fourcc: .xrgb8888)
  private let black = QEMURequest.scanout(output: 0, width: 0, height: 0)

  private func off(_ output: UInt32) -> QEMURequest {
    .dmabufScanout(
      output: output,
      layout: PixelLayout(width: 0, height: 0, stride: 0, fourcc: FourCC(rawValue: 0)),
      modifier: nil)
  }

  /// A display with a picture on output 0 that QEMU has taken.
  private func lit(_ way: QEMUDisplay.Way) throws -> (QEMUBench, FakeQEMU) {
    let bench = try QEMUBench(way: way, patience: 600_000_000_000)
    bench.source.canvases[0] = Canvas(64, 32)
    if way == .dmabuf { _ = try bench.source.back(0) }
    let qemu = try bench.attach()
    try bench.settle(qemu)
    return (bench, qemu)
  }

  private func darken(_ bench: QEMUBench) {
    bench.source.canvases[0] = nil
    bench.source.buffers[0] = nil
    bench.display.output(0, resized: nil)
  }

  enum Moment: CaseIterable { case before, whileUnread, after }

  @Test("Pixels of a guest that was reset go black", arguments: Moment.allCases)
  func pixels(_ reset: Moment) throws {
    let (bench, first) = try lit(.pixels)
    // What is sent while nobody reads any more has not reached QEMU.
    if reset == .whileUnread { darken(bench) }
    first.close()
    if reset != .after {
      try bench.turn { !bench.display.isAttached }
      darken(bench)
    }
    let second = try bench.attach()
    if reset == .after { darken(bench) }
    try bench.settle(second)
    #expect(second.pictures.last == black)
    #expect(!second.pictures.contains(off(0)), "it had no dma-buf")
  }

  @Test("A dma-buf stays pinned until the next socket has taken it off", arguments: Moment.allCases)
  func pages(_ reset: Moment) throws {
    let (bench, first) = try lit(.dmabuf)
    weak let buffer = bench.source.buffers[0]
    var released = 0
    func revoke() throws {
      bench.display.revoke(try #require(buffer), reason: .reset) { released += 1 }
      darken(bench)
    }
    if reset == .whileUnread { try revoke() }
    first.close()
    try bench.turn { !bench.display.isAttached }
    if reset == .before { try revoke() }
    if reset != .after {
      try bench.turn { released == 1 }
      #expect(buffer != nil, "the guest does not wait for long, but QEMU has the pages")
    }
    let second = try bench.attach()
    if reset == .after { try revoke() }
    try bench.settle(second)
    #expect(second.pictures.suffix(2) == [off(0), black])
    #expect(released == 1)
    #expect(buffer == nil)
  }

  @Test("A driver that lights another head", arguments: [QEMUDisplay.Way.pixels, .dmabuf])
  func otherHead(_ way: QEMUDisplay.Way) throws {
    let (bench, first) = try lit(way)
    first.close()
    try bench.turn { !bench.display.isAttached }
    darken(bench)
    bench.source.canvases[1] = Canvas(64, 32)
    if way == .dmabuf { _ = try bench.source.back(1, id: 2) }
    bench.display.output(1, resized: (64, 32))
    let second = try bench.attach()
    try bench.settle(second)
    let shown = second.pictures
    #expect(shown.contains(black))
    #expect(shown.contains(off(0)) == (way == .dmabuf))
    #expect(shown.contains(.scanout(output: 1, width: 64, height: 32)))
  }

  @Test("Pixels after a dma-buf: it is taken off first, and let go")
  func pixelsAfterPages() throws {
    let (bench, first) = try lit(.dmabuf)
    weak let buffer = bench.source.buffers[0]
    first.close()
    try bench.turn { !bench.display.isAttached }
    let second = try bench.attach()
    second.features = []
    bench.source.buffers[0] = nil
    bench.display.present(try #require(bench.source.frame(0)))
    try bench.settle(second)
    #expect(second.pictures.prefix(2) == [off(0), .scanout(output: 0, width: 64, height: 32)])
    let canvas = try #require(bench.source.canvases[0])
    #expect(QEMUScreen(second.requests).colors(0) == canvas.colors(bench.source.crop(0)))
    if let left = buffer { bench.display.revoke(left, reason: .unused) {} }
    try bench.settle(second)
    #expect(buffer == nil)
  }

  @Test("A dma-buf after pixels is preceded by a surface of its size")
  func pagesAfterPixels() throws {
    let bench = try QEMUBench(way: .dmabuf)
    bench.source.canvases[0] = Canvas(32, 16)
    let first = try bench.attach()
    try bench.settle(first)
    first.close()
    try bench.turn { !bench.display.isAttached }
    bench.source.canvases[0] = Canvas(64, 32)
    _ = try bench.source.back(0)
    let second = try bench.attach()
    try bench.settle(second)
    #expect(second.pictures.first == .scanout(output: 0, width: 64, height: 32))
    #expect(second.pictures.contains(.dmabufScanout(output: 0, layout: layout, modifier: 0)))
  }

  @Test("A picture set and not drawn yet takes the old dma-buf off")
  func notDrawnYet() throws {
    let (bench, first) = try lit(.dmabuf)
    weak let buffer = bench.source.buffers[0]
    first.close()
    try bench.turn { !bench.display.isAttached }
    bench.display.revoke(try #require(buffer), reason: .reset) {}
    darken(bench)
    bench.display.output(0, resized: (64, 32))
    let second = try bench.attach()
    try bench.settle(second)
    #expect(second.pictures == [off(0)])
    #expect(buffer == nil)
  }

  @Test("Cursors of each output are hidden")
  func cursors() throws {
    let bench = try QEMUBench()
    let image = CursorImage(
      width: 64, height: 64, pixels: [UInt8](repeating: 9, count: 64 * 64 * 4), serial: 1)
    let first = try bench.attach()
    func state(_ output: Int, _ image: CursorImage?) -> CursorState {
      CursorState(output: output, x: 5, y: 6, hotX: 0, hotY: 0, image: image)
    }
    for output in [0, 3] { bench.display.cursor(state(output, image), imageChanged: true) }
    bench.display.cursor(state(1, nil), imageChanged: true)
    try bench.settle(first)
    // The message that hides this one is never read.
    bench.display.cursor(state(3, nil), imageChanged: true)
    first.close()
    try bench.turn { !bench.display.isAttached }
    bench.display.cursor(state(0, nil), imageChanged: true)
    let second = try bench.attach()
    try bench.settle(second)
    #expect(
      second.shown == [0, 3].map { .cursorPosition(output: $0, x: 5, y: 6, visible: false) })
  }

  @Test("Another front-end has nothing of the last one's")
  func otherFrontEnd() throws {
    let (bench, _) = try lit(.dmabuf)
    weak let buffer = bench.source.buffers[0]
    bench.display.revoke(try #require(buffer), reason: .reset) {}
    darken(bench)
    bench.display.frontEndLeft()
    #expect(buffer == nil)
    let other = try bench.attach()
    try bench.settle(other)
    #expect(other.pictures.isEmpty)
  }
}
