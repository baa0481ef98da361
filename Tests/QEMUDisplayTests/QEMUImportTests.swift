import CLinux
import Fences
import Glibc
import Linux
import Pixels
import Scene
import Testing

@testable import Buffers
@testable import QEMUDisplay

/// Who has the guest's pages, which parts of them, and until when.
@Suite("QEMU display: pages on several outputs, and behind a full socket")
struct QEMUImportTests {
  private let whole = Rect(x: 0, y: 0, width: 64, height: 32)

  private func start(
    outputs: Int = 1, leaveDeadline: UInt64 = 600_000_000_000
  ) throws -> (QEMUBench, FakeQEMU) {
    let bench = try QEMUBench(
      way: .dmabuf, patience: 600_000_000_000, leaveDeadline: leaveDeadline)
    for output in 0..<outputs {
      bench.source.canvases[output] = Canvas(64, 32)
      _ = try bench.source.back(output, id: UInt32(output + 1))
    }
    let qemu = try bench.attach()
    try bench.settle(qemu)
    return (bench, qemu)
  }

  /// The same pages on outputs 0 and 1, both of which QEMU has.
  private func startOnBoth() throws -> (QEMUBench, FakeQEMU, OfferedBuffer) {
    let (bench, qemu) = try start(outputs: 2)
    let pages = try #require(bench.source.buffers[0])
    bench.source.buffers[1] = pages
    bench.present(1)
    try bench.settle(qemu)
    return (bench, qemu, pages)
  }

  private func shown(_ output: UInt32, _ size: Rect, stride: UInt32 = 256) -> [QEMURequest] {
    let layout = PixelLayout(
      width: size.width, height: size.height, stride: stride, fourcc: .xrgb8888)
    return [
      .dmabufScanout(output: output, layout: layout, modifier: 0),
      .dmabufUpdate(output: output, rect: size),
    ]
  }

  @Test("QEMU is known to have pages from their message on until it has let them go")
  func recipient() throws {
    let (bench, qemu) = try start()
    let pages = try #require(bench.source.buffers[0])
    #expect(pages.recipients.suspects.contains { $0 === bench.display.recipient })
    pages.given(to: Recipient("another"))
    _ = try bench.source.back(0, id: 9)
    bench.present(0)
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown(0, whole)[...])
    #expect(pages.recipients.suspects.map(\.label) == ["another"])
  }

  @Test("Less of the same pages is announced as such")
  func otherSize() throws {
    let (bench, qemu) = try start()
    let part = Rect(x: 0, y: 0, width: 32, height: 16)
    bench.source.crops[0] = part
    bench.show(0)
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown(0, part)[...])
    #expect(qemu.strays.count == 2)
  }

  @Test("Pages on two outputs are let go when QEMU has them on neither")
  func twoOutputs() throws {
    let (bench, qemu, pages) = try startOnBoth()
    #expect(qemu.pictures.suffix(2) == shown(1, whole)[...])
    _ = try bench.source.back(1, id: 9)
    bench.present(1)
    try bench.settle(qemu)
    #expect(bench.scene.isSeen(pages))
    qemu.answers = false
    var released = 0
    bench.display.revoke(pages, reason: .discarded) { released += 1 }
    try bench.settle(qemu)
    #expect(released == 0, "QEMU has not said that output 0 is without them")
    bench.display.frontEndLeft()
    #expect(released == 1)
  }

  @Test("Revoked pages leave every output that they are on")
  func revokedOnTwoOutputs() throws {
    let (bench, qemu, pages) = try startOnBoth()
    var released = 0
    bench.display.revoke(pages, reason: .destroyed) { released += 1 }
    try bench.settle(qemu)
    #expect(released == 1 && !bench.scene.isSeen(pages))
  }

  @Test("QEMU has five seconds to present what it was shown")
  func patience() throws {
    let bench = try QEMUBench(way: .dmabuf)
    let qemu = try bench.attach()
    try bench.settle(qemu)
    qemu.acknowledges = false
    bench.source.canvases[0] = Canvas(64, 32)
    _ = try bench.source.back(0)
    #expect(bench.loop.nextDue == .max)
    let before = Clock.now
    bench.show(0)
    #expect((before + 5_000_000_000...Clock.now + 5_000_000_000).contains(bench.loop.nextDue))
    try bench.settle(qemu)
    #expect(qemu.pictures.suffix(2) == shown(0, whole)[...])
  }

  @Test("Each revoked buffer has its own deadline")
  func deadlines() throws {
    let (bench, qemu) = try start(outputs: 2, leaveDeadline: 100_000_000)
    qemu.answers = false
    var released: [Int] = []
    for output in 0..<2 {
      let pages = try #require(bench.source.buffers[output])
      bench.display.revoke(pages, reason: .destroyed) { released.append(output) }
      if output == 0 { usleep(50_000) }
    }
    #expect(released.isEmpty)
    try bench.turn { released.sorted() == [0, 1] }
  }

  @Test("An answer that comes before an update's is not the update's")
  func answersInBetween() throws {
    let (bench, qemu) = try start()
    qemu.acknowledges = false
    var isAnswered = false
    let hold = Hold { isAnswered = true }
    bench.present(0, hold: hold)
    hold.release()
    var infos = 0
    bench.display.displayInfo { infos += $0 == nil ? 100 : 1 }
    try bench.settle(qemu)
    #expect(infos == 1)
    #expect(!isAnswered, "QEMU has not presented it")
    #expect(bench.display.wantsBuffers)
    qemu.acknowledge()
    try bench.settle(qemu)
    #expect(isAnswered && bench.display.wantsBuffers)
  }

  @Test("QEMU, which knows no fences, is not given what is not drawn yet")
  func undrawn() throws {
    let (bench, qemu) = try start()
    _ = try bench.source.back(0, id: 9, memory: .rendered)
    var frame = try #require(bench.source.frame(0))
    frame.acquire = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    let before = qemu.pictures.count
    bench.display.present(frame)
    try bench.settle(qemu)
    let news = qemu.pictures.dropFirst(before)
    #expect(news.count == 3, "\(news)")
    #expect(news.contains(.scanout(output: 0, width: 64, height: 32)))
    #expect(qemu.strays.count == 1 && bench.display.counters.updates == 1)
  }

  @Test("Pages whose message finds no room follow when there is some")
  func fullSocket() throws {
    // The socket takes a few messages, however small: one of these fills it to the last.
    for before in 0..<24 {
      let bench = try QEMUBench(way: .dmabuf, patience: 600_000_000_000)
      let qemu = try bench.attach(sendBuffer: 1)
      try bench.settle(qemu)
      for _ in 0..<before { bench.display.displayInfo { _ in } }
      bench.source.canvases[0] = Canvas(64, 32)
      _ = try bench.source.back(0)
      bench.show(0)
      try bench.settle(qemu)
      #expect(qemu.pictures.suffix(2) == shown(0, whole)[...], "after \(before) messages")
      #expect(qemu.strays.count == 1)
    }
  }
}
