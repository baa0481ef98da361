import Buffers
import Fences
import Linux
import Pixels
import Scene
import Testing

@testable import Buffers
@testable import QEMUDisplay

@Suite("QEMU display: the guest's pages")
struct QEMUPagesTests {
  private let whole = Rect(x: 0, y: 0, width: 64, height: 32)
  private let layout = PixelLayout(width: 64, height: 32, stride: 256, fourcc: .xrgb8888)

  private func start(
    patience: UInt64 = 600_000_000_000, leaveDeadline: UInt64 = HoldQueue.defaultDeadline
  ) throws -> (QEMUBench, FakeQEMU, OfferedBuffer) {
    let bench = try QEMUBench(way: .dmabuf, patience: patience, leaveDeadline: leaveDeadline)
    bench.source.canvases[0] = Canvas(64, 32)
    let buffer = try bench.source.back(0)
    let qemu = try bench.attach()
    return (bench, qemu, buffer)
  }

  private var shown: [QEMURequest] {
    [
      .dmabufScanout(output: 0, layout: layout, modifier: 0),
      .dmabufUpdate(output: 0, rect: whole),
    ]
  }

  /// What sizes QEMU's own surface.
  private var sized: [QEMURequest] {
    [
      .scanout(output: 0, width: 64, height: 32),
      .update(output: 0, rect: Rect(x: 0, y: 0, width: 1, height: 1), pixels: [0, 0, 0, 0]),
    ]
  }

  private let off = QEMURequest.dmabufScanout(
    output: 0,
    layout: PixelLayout(width: 0, height: 0, stride: 0, fourcc: FourCC(rawValue: 0)),
    modifier: nil)

  @Test("A dma-buf is announced once with its descriptor, and updated with the damage")
  func firstPicture() throws {
    let (bench, qemu, _) = try start()
    #expect(bench.display.wantsBuffers)
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown)
    #expect(qemu.strays.count == 1)
    let damage = Rect(x: 3, y: 4, width: 5, height: 6)
    bench.present(0, damage: damage)
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown + [.dmabufUpdate(output: 0, rect: damage)])
    #expect(qemu.strays.count == 1)
    let counters = bench.display.counters
    #expect(counters.updates == 0 && counters.dmabufs == 1 && counters.dmabufUpdates == 2)
  }

  @Test("A QEMU without DMABUF2 gets the older message")
  func olderQEMU() throws {
    let (bench, qemu, _) = try start()
    qemu.features = [.edid]
    try bench.settle(qemu)
    #expect(qemu.pictures.contains(.dmabufScanout(output: 0, layout: layout, modifier: nil)))
  }

  @Test("One update is in flight for all outputs; the others follow with their damage")
  func oneInFlight() throws {
    let (bench, qemu, _) = try start()
    bench.source.canvases[1] = Canvas(64, 32)
    _ = try bench.source.back(1, id: 2)
    qemu.acknowledges = false
    try bench.settle(qemu)
    bench.show(1)
    bench.present(0, damage: Rect(x: 1, y: 1, width: 2, height: 2))
    bench.present(0, damage: Rect(x: 5, y: 5, width: 2, height: 2))
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown)
    for _ in 0..<2 {
      qemu.acknowledge()
      try bench.settle(qemu)
    }
    let updates = qemu.pictures.suffix(from: 4)
    #expect(updates.contains(.dmabufUpdate(output: 1, rect: whole)))
    #expect(
      updates.contains(.dmabufUpdate(output: 0, rect: Rect(x: 1, y: 1, width: 6, height: 6))))
    #expect(updates.count { if case .dmabufUpdate = $0 { true } else { false } } == 2)
  }

  @Test("The guest's fence waits for QEMU's answer")
  func fence() throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    qemu.acknowledges = false
    var answered = 0
    let hold = Hold { answered += 1 }
    bench.present(0, hold: hold)
    hold.release()
    try bench.settle(qemu)
    #expect(answered == 0)
    #expect(hold.readers == 1)
    qemu.acknowledge()
    try bench.settle(qemu)
    #expect(answered == 1)
  }

  @Test("A fence is answered when the socket goes")
  func fenceOfALostSocket() throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    qemu.acknowledges = false
    var answered = 0
    let hold = Hold { answered += 1 }
    bench.present(0, hold: hold)
    hold.release()
    try bench.settle(qemu)
    bench.display.detach()
    #expect(answered == 1)
    #expect(!bench.display.wantsBuffers)
    let next = try bench.attach()
    try bench.settle(next)
    #expect(next.pictures == sized + shown)
  }

  @Test("What a renderer drew is not drawn into until QEMU has taken the next picture")
  func replacedPicture() throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    _ = try bench.source.back(0, id: 7, memory: .rendered)
    var isFree = false
    let hold = Hold { isFree = true }
    bench.present(0, hold: hold)
    hold.release()
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown + shown)
    #expect(!isFree, "QEMU has presented it, and may do so again")
    qemu.acknowledges = false
    _ = try bench.source.back(0, id: 8, memory: .rendered)
    bench.present(0)
    #expect(!isFree, "QEMU has not read that there is another one")
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown + shown + shown)
    #expect(!isFree)
    qemu.acknowledge()
    try bench.settle(qemu)
    #expect(isFree)
  }

  @Test("A new generation takes the old one's place, which QEMU has let go before it counts")
  func generations() throws {
    let (bench, qemu, old) = try start()
    try bench.settle(qemu)
    var released = 0
    bench.display.revoke(old, reason: .discarded) { released += 1 }
    _ = try bench.source.back(0, generation: 2)
    bench.present(0)
    #expect(released == 0)
    try bench.settle(qemu)
    #expect(released == 1)
    #expect(qemu.pictures == sized + shown + shown)
    #expect(qemu.strays.count == 2)
  }

  @Test("A new generation waits for the answer of the update in flight")
  func generationInFlight() throws {
    let (bench, qemu, old) = try start()
    qemu.acknowledges = false
    try bench.settle(qemu)
    var released = 0
    bench.display.revoke(old, reason: .discarded) { released += 1 }
    _ = try bench.source.back(0, generation: 2)
    bench.present(0)
    try bench.settle(qemu)
    #expect(released == 0)
    #expect(qemu.pictures == sized + shown)
    qemu.acknowledge()
    try bench.settle(qemu)
    #expect(released == 1)
    #expect(qemu.pictures == sized + shown + shown)
  }

  @Test("QEMU has until the deadline to let a revoked buffer go")
  func leaveDeadline() throws {
    let deadline: UInt64 = 60_000_000_000
    let (bench, qemu, old) = try start(leaveDeadline: deadline)
    qemu.acknowledges = false
    try bench.settle(qemu)
    #expect(bench.loop.nextDue > Clock.now + 2 * deadline)
    let before = Clock.now
    bench.display.revoke(old, reason: .destroyed) {}
    let after = Clock.now
    #expect((before + deadline...after + deadline).contains(bench.loop.nextDue))
  }

  @Test("A guest does not wait for a QEMU that keeps a revoked buffer")
  func revokedForLong() throws {
    let (bench, qemu, old) = try start()
    qemu.acknowledges = false
    try bench.settle(qemu)
    var released = 0
    bench.display.revoke(old, reason: .destroyed) { released += 1 }
    try bench.turn(qemu) { released > 0 }
    #expect(released == 1)
    bench.display.detach()
    #expect(released == 1)
  }

  @Test("A buffer revoked without a successor leaves the screen")
  func revoked() throws {
    let (bench, qemu, old) = try start()
    try bench.settle(qemu)
    var released = 0
    bench.display.revoke(old, reason: .destroyed) { released += 1 }
    bench.source.canvases = [:]
    try bench.settle(qemu)
    #expect(qemu.pictures == sized + shown + [off])
    #expect(released == 1)
  }

  @Test("A buffer that QEMU never had is let go at once")
  func neverShown() throws {
    let (bench, _, _) = try start()
    let other = try bench.source.back(0, id: 9)
    var released = 0
    bench.display.revoke(other, reason: .unused) { released += 1 }
    #expect(released == 1)
  }

  /// Shows something that passes for a dma-buf which a GPU reads.
  private func startBusy(
    leaveDeadline: UInt64
  ) throws -> (QEMUBench, FakeQEMU, OfferedBuffer, FakeReaders) {
    let (bench, qemu, _) = try start(leaveDeadline: leaveDeadline)
    try bench.settle(qemu)
    let readers = try FakeReaders()
    bench.display.readers = { _ in readers.fence }
    let busy = OfferedBuffer(
      id: 7, generation: 1, layout: layout, size: layout.size, fd: readers.dmaBuf,
      memory: .guestPages)
    bench.source.buffers[0] = busy
    bench.present(0)
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown)
    return (bench, qemu, busy, readers)
  }

  @Test("A guest waits for QEMU's GPU, which reads on after QEMU has let go")
  func readersOfARevokedBuffer() throws {
    let (bench, qemu, busy, readers) = try startBusy(leaveDeadline: 600_000_000_000)
    var released = 0
    bench.display.revoke(busy, reason: .destroyed) { released += 1 }
    bench.source.canvases = [:]
    try bench.settle(qemu)
    #expect(qemu.pictures.last == off)
    #expect(bench.display.imports.isEmpty && released == 0)
    readers.finish()
    try bench.turn(qemu) { released == 1 }
    #expect(bench.display.parting.isEmpty)
  }

  @Test("The same where QEMU had let go before the guest wants its pages back")
  func readersOfABufferThatLeft() throws {
    let (bench, qemu, busy, readers) = try startBusy(leaveDeadline: 600_000_000_000)
    _ = try bench.source.back(0, id: 8)
    bench.present(0)
    try bench.settle(qemu)
    #expect(!bench.display.imports.contains { $0.buffer === busy })
    var released = 0
    bench.display.revoke(busy, reason: .rebacked) { released += 1 }
    try bench.settle(qemu)
    #expect(released == 0)
    readers.finish()
    try bench.turn(qemu) { released == 1 }
  }

  @Test("A GPU that never ends costs the guest one deadline")
  func readersThatNeverEnd() throws {
    let (bench, qemu, busy, _) = try startBusy(leaveDeadline: 1_000_000)
    var released = 0
    bench.display.revoke(busy, reason: .destroyed) { released += 1 }
    bench.source.canvases = [:]
    try bench.turn(qemu) { released == 1 }
    try bench.settle(qemu)
    #expect(bench.display.parting.isEmpty)
    bench.display.frontEndLeft()
    #expect(released == 1)
  }

  @Test("A QEMU that keeps pages which were taken back gets pixels until it lets go")
  func keptPages() throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    bench.display.recipient.keptBytes = 4096
    bench.present(0)
    try bench.settle(qemu)
    let canvas = try #require(bench.source.canvases[0])
    #expect(qemu.pictures.contains(off))
    #expect(
      QEMUScreen(Array(qemu.pictures.suffix(from: 4))).colors(0)
        == canvas.colors(bench.source.crop(0)))
    bench.display.recipient.keptBytes = 0
    bench.present(0)
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown)
  }

  @Test("An output that goes off lets its dma-buf and its surface go")
  func disable() throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    bench.source.canvases = [:]
    bench.display.output(0, resized: nil)
    try bench.settle(qemu)
    #expect(
      qemu.pictures == sized + shown + [off, .scanout(output: 0, width: 0, height: 0)])
  }

  @Test(
    "What QEMU cannot import is sent as pixels, after the dma-buf is let go",
    arguments: ["copy", "none", "offset", "column", "start", "format"])
  func pixelsInstead(_ reason: String) throws {
    let (bench, qemu, _) = try start()
    try bench.settle(qemu)
    var canvas = Canvas(64, 32)
    switch reason {
    case "copy": _ = try bench.source.back(0, memory: .copy)
    case "none": bench.source.buffers = [:]
    case "offset":
      canvas = Canvas(64, 64)
      bench.source.crops[0] = Rect(x: 0, y: 32, width: 64, height: 32)
      bench.source.canvases[0] = canvas
      _ = try bench.source.back(0, id: 2)
    case "column":
      canvas = Canvas(128, 32)
      bench.source.crops[0] = Rect(x: 64, y: 0, width: 64, height: 32)
      bench.source.canvases[0] = canvas
      _ = try bench.source.back(0, id: 2)
    case "start": _ = try bench.source.back(0, id: 2, start: 64)
    default:
      canvas = Canvas(64, 32, fourcc: .rgbx8888)
      bench.source.canvases[0] = canvas
      _ = try bench.source.back(0, id: 2)
    }
    bench.source.canvases[0] = canvas
    bench.show(0)
    try bench.settle(qemu)
    let after = Array(qemu.pictures.suffix(from: 4))
    #expect(after.prefix(2) == [off, .scanout(output: 0, width: 64, height: 32)])
    #expect(QEMUScreen(after).colors(0) == canvas.colors(bench.source.crop(0)))
    // And back again.
    bench.source.canvases[0] = Canvas(64, 32)
    bench.source.crops = [:]
    _ = try bench.source.back(0, id: 3)
    bench.show(0)
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown)
  }

  @Test("A QEMU that does not answer gets pixels until its next socket")
  func silence() throws {
    let (bench, qemu, _) = try start(patience: 10_000_000)
    qemu.acknowledges = false
    try bench.turn(qemu) { !bench.display.wantsBuffers }
    try bench.settle(qemu)
    let canvas = try #require(bench.source.canvases[0])
    #expect(QEMUScreen(qemu.pictures).colors(0) == canvas.colors(bench.source.crop(0)))
    #expect(qemu.pictures.contains(off))
    let next = try bench.attach()
    try bench.settle(next)
    #expect(next.pictures == sized + shown)
  }

  @Test("An answer that nobody asked for, or one that is too long, closes the socket")
  func wrongAnswers() throws {
    for payload in [[], [1]] as [[UInt8]] {
      let (bench, qemu, _) = try start()
      qemu.acknowledges = false
      try bench.settle(qemu)
      if payload.isEmpty { qemu.acknowledge() }
      try bench.settle(qemu)
      qemu.send(request: 10, size: UInt32(payload.count), payload: payload)
      try bench.settle(qemu)
      #expect(!bench.display.isAttached)
      #expect(!bench.display.wantsBuffers)
    }
  }
}
