import Buffers
import FakeGuest
import Linux
import Pixels
import Scene
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: a full socket")
struct QEMUPressureTests {
  @Test("A slow reader gets every pixel as it was at the flush", arguments: [100, 5000])
  func slowReader(limit: Int) throws {
    let bench = try QEMUBench()
    let canvas = Canvas(200, 150, padding: 12, pieceSize: 777)
    bench.source.canvases[0] = canvas
    let expected = canvas.colors(bench.source.crop(0))
    let qemu = try bench.attach(sendBuffer: 1)
    // The guest draws on; the message that was begun keeps what it was begun with.
    canvas.fill(seed: 9)
    try bench.settle(qemu, limit: limit)
    #expect(QEMUScreen(qemu.requests).colors(0) == expected)
    #expect(bench.display.counters.bytesCopied > 0)
    #expect(bench.display.bytesWaiting == 0)
  }

  @Test("Converted pixels survive a slow reader too")
  func slowConverted() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(400, 300, fourcc: .rgbx8888, pieceSize: 1001)
    bench.source.canvases[0] = canvas
    let expected = canvas.colors(bench.source.crop(0))
    let qemu = try bench.attach(sendBuffer: 1)
    canvas.fill(seed: 9)
    try bench.settle(qemu, limit: 3000)
    #expect(QEMUScreen(qemu.requests).colors(0) == expected)
  }

  @Test("Frames for a reader that stands still are merged, and memory stays bounded")
  func standstill() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(200, 150)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach(sendBuffer: 1)
    for seed: UInt32 in 2..<200 {
      canvas.fill(seed: seed)
      bench.present(0, damage: Rect(x: seed % 100, y: seed % 70, width: 30, height: 20))
      try bench.loop.turn(timeout: 0)
      #expect(bench.display.bytesWaiting <= 200 * 150 * 4 + 100)
    }
    #expect(bench.display.counters.updates == 1)
    #expect(bench.display.counters.coalesced == 198)
    bench.present(0)
    try bench.settle(qemu)
    #expect(qemu.shown.count == 3)
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("What was missed is sent as it is when there is room, and no more than that")
  func onlyMissed() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(200, 150)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach(sendBuffer: 1)
    bench.present(0, damage: Rect(x: 10, y: 10, width: 5, height: 5))
    bench.present(0, damage: Rect(x: 20, y: 12, width: 5, height: 5))
    try bench.settle(qemu)
    guard case .update(0, let rect, _)? = qemu.shown.last else {
      Issue.record("no update")
      return
    }
    #expect(rect == Rect(x: 10, y: 10, width: 15, height: 7))
    #expect(qemu.shown.count == 3)
  }

  @Test("A busy output does not keep the others from their turn")
  func fairness() throws {
    let bench = try QEMUBench()
    for output in 0..<4 { bench.source.canvases[output] = Canvas(100, 100) }
    let qemu = try bench.attach(sendBuffer: 1)
    for seed: UInt32 in 0..<400 {
      bench.source.canvases[0]?.fill(seed: seed)
      bench.present(0)
      qemu.serve(limit: 4000)
      try bench.loop.turn(timeout: 0)
    }
    let screen = QEMUScreen(qemu.requests)
    for output: UInt32 in 1..<4 {
      let expected = bench.source.canvases[Int(output)]?.colors(bench.source.crop(Int(output)))
      #expect(screen.colors(output) == expected)
    }
    #expect(screen.faults == 0)
  }

  @Test("An output that goes off while the socket is full is disabled afterwards")
  func disabledMeanwhile() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(200, 150)
    let qemu = try bench.attach(sendBuffer: 1)
    bench.present(0)
    bench.source.canvases[0] = nil
    bench.display.output(0, resized: nil)
    try bench.settle(qemu)
    #expect(qemu.shown.last == .scanout(output: 0, width: 0, height: 0))
    #expect(qemu.shown.count == 3)
    #expect(QEMUScreen(qemu.requests).faults == 0)
  }

  @Test("A source that shows nothing any more does not keep the display busy")
  func vanishedPicture() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(200, 150)
    let qemu = try bench.attach(sendBuffer: 1)
    bench.present(0)
    bench.source.canvases[0] = nil
    try bench.settle(qemu)
    #expect(qemu.shown.count == 2)
    #expect(bench.display.bytesWaiting == 0)
  }

  @Test("Frames above the limit are sent in bands of rows", arguments: [1, 4000, 30_000])
  func bands(limit: Int) throws {
    let bench = try QEMUBench(maxUpdate: limit)
    let canvas = Canvas(100, 90)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach(sendBuffer: 1)
    let rows = max(1, limit / 400)
    #expect(bench.display.bytesWaiting <= rows * 400 + 100)
    try bench.settle(qemu, limit: 10_000)
    let screen = QEMUScreen(qemu.requests)
    #expect(screen.colors(0) == canvas.colors(bench.source.crop(0)))
    #expect(screen.faults == 0)
    #expect(bench.display.counters.updates == (90 + rows - 1) / rows)
  }

  @Test("Room is only looked for where it lacks, or the loop would never rest")
  func rest() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach(sendBuffer: 1)
    try bench.settle(qemu)
    let fd = try #require(bench.display.link?.outbox.fd)
    #expect(WatchedSocket.awaitsRoom(fd) == false)
    bench.source.canvases[0] = Canvas(200, 150)
    bench.show(0)
    #expect(bench.display.bytesWaiting > 0)
    #expect(WatchedSocket.awaitsRoom(fd) == true)
    try bench.settle(qemu)
    #expect(bench.display.bytesWaiting == 0)
    #expect(WatchedSocket.awaitsRoom(fd) == false)
  }

  @Test("An 8K frame arrives whole")
  func eightK() throws {
    let bench = try QEMUBench()
    let canvas = Canvas(7680, 4320, pieceSize: 1 << 20)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach()
    try bench.settle(qemu)
    var rows: UInt32 = 0
    let pixels = try #require(canvas.pixels)
    for case .update(0, let rect, let bytes) in qemu.shown {
      #expect(rect.y == rows)
      #expect(bytes.count <= 64 << 20, "no more than that is in memory of our own")
      var expected = [UInt8](repeating: 0, count: bytes.count)
      expected.withUnsafeMutableBytes { raw in
        guard let base = raw.baseAddress else { return }
        pixels.copy(rect, to: base, stride: 7680 * 4)
      }
      #expect(bytes == expected)
      rows += rect.height
    }
    #expect(rows == 4320)
  }
}
