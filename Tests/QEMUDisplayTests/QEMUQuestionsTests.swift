import Buffers
import Glibc
import Linux
import Pixels
import Scene
import Testing
import VirtioGPU

@testable import QEMUDisplay

@Suite("QEMU display: questions")
struct QEMUQuestionsTests {
  private let info = DisplayInfo(modes: [
    DisplayMode(rect: Rect(x: 0, y: 0, width: 1280, height: 800), isEnabled: true),
    DisplayMode(rect: Rect(x: 5, y: 6, width: 7, height: 8), isEnabled: false, flags: 9),
  ])

  /// Completions of a kind, in order.
  private final class Answers<T> {
    var list: [T?] = []
  }

  @Test("QEMU's display info reaches the guest as it is")
  func displayInfo() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    qemu.info = info
    let answers = Answers<DisplayInfo>()
    bench.display.displayInfo { answers.list.append($0) }
    try bench.turn(qemu) { answers.list.count == 1 }
    #expect(answers.list == [info])
  }

  @Test("Each output gets its own EDID, whole or short, asked before or after negotiation")
  func edid() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    let long = (0..<1024).map { UInt8(truncatingIfNeeded: $0) }
    qemu.edids = [EDID.make(width: 800, height: 600), long, [1], []]
    for round in 0..<2 {
      let answers = Answers<[UInt8]>()
      for output in 0..<4 { bench.display.edid(output: output) { answers.list.append($0) } }
      #expect(round == 0 || answers.list.isEmpty)
      try bench.turn(qemu) { answers.list.count == 4 }
      #expect(answers.list == [qemu.edids[0], long, [1], nil])
    }
  }

  @Test("An output that QEMU does not have is told apart without waiting for the deadline")
  func missingOutput() throws {
    let bench = try QEMUBench(patience: 3_600_000_000_000)
    let qemu = try bench.attach()
    qemu.edids = [[7]]
    let answers = Answers<[UInt8]>()
    for output in [3, 0, 15, 16, -1, 0] {
      bench.display.edid(output: output) { answers.list.append($0) }
    }
    try bench.turn(qemu) { answers.list.count == 6 }
    #expect(answers.list.filter { $0 == [7] }.count == 2)
    #expect(answers.list.filter { $0 == nil }.count == 4)
  }

  @Test("Without the EDID feature QEMU is not asked for one")
  func noEDID() throws {
    let bench = try QEMUBench(patience: 3_600_000_000_000)
    let qemu = try bench.attach()
    qemu.features = []
    let answers = Answers<[UInt8]>()
    bench.display.edid(output: 0) { answers.list.append($0) }
    try bench.turn(qemu) { answers.list.count == 1 }
    bench.display.edid(output: 0) { answers.list.append($0) }
    #expect(answers.list == [nil, nil])
    #expect(!qemu.requests.contains(.getEDID(output: 0)))
  }

  @Test("Without a socket there is no answer, at once")
  func noSocket() throws {
    let bench = try QEMUBench()
    let infos = Answers<DisplayInfo>()
    let edids = Answers<[UInt8]>()
    bench.display.displayInfo { infos.list.append($0) }
    bench.display.edid(output: 0) { edids.list.append($0) }
    #expect(infos.list == [nil] && edids.list == [nil])
  }

  @Test("QEMU has a second for its answers")
  func patience() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    try bench.settle(qemu)
    #expect(bench.loop.nextDue == .max)
    qemu.answers = false
    let before = Clock.now
    bench.display.displayInfo { _ in }
    let due = before + 1_000_000_000...Clock.now + 1_000_000_000
    #expect(due.contains(bench.loop.nextDue))
  }

  @Test("A QEMU that is silent is given up, and its late answers are not mistaken for others")
  func deadline() throws {
    let bench = try QEMUBench(patience: 1_000_000)
    let qemu = try bench.attach()
    qemu.answers = false
    let infos = Answers<DisplayInfo>()
    let edids = Answers<[UInt8]>()
    bench.display.displayInfo { infos.list.append($0) }
    bench.display.edid(output: 0) { edids.list.append($0) }
    try bench.turn(qemu) { infos.list.count == 1 && edids.list.count == 1 }
    #expect(infos.list == [nil] && edids.list == [nil])
    bench.display.displayInfo { infos.list.append($0) }
    var late = QEMUWire.Encoder()
    late.protocolFeaturesReply([.edid])
    late.displayInfoReply(DisplayInfo(modes: []))
    late.displayInfoReply(info)
    qemu.send(late.bytes)
    try bench.turn(qemu) { infos.list.count == 2 }
    #expect(infos.list == [nil, info] || infos.list == [nil, nil])
    try bench.settle(qemu)
    #expect(bench.display.isAttached)
  }

  @Test("Each question has its own deadline")
  func deadlines() throws {
    let bench = try QEMUBench(patience: 100_000_000)
    let qemu = try bench.attach()
    try bench.settle(qemu)
    qemu.answers = false
    let answers = Answers<DisplayInfo>()
    bench.display.displayInfo { answers.list.append($0) }
    usleep(50_000)
    bench.display.displayInfo { answers.list.append($0) }
    #expect(answers.list.isEmpty)
    try bench.turn(qemu) { answers.list.count == 2 }
    #expect(answers.list == [nil, nil])
  }

  @Test("More questions than QEMU can be expected to answer are turned away")
  func tooMany() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    qemu.answers = false
    let answers = Answers<DisplayInfo>()
    for _ in 0..<1000 { bench.display.displayInfo { answers.list.append($0) } }
    #expect(answers.list.count > 900)
    qemu.answers = true
    try bench.turn(qemu) { answers.list.count == 1000 }
  }

  @Test("Questions go out and are answered behind a picture that is being sent")
  func behindPixels() throws {
    let bench = try QEMUBench(patience: 3_600_000_000_000)
    let canvas = Canvas(200, 150)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach(sendBuffer: 1)
    qemu.info = info
    let answers = Answers<DisplayInfo>()
    bench.display.displayInfo { answers.list.append($0) }
    bench.present(0)
    try bench.turn(qemu) { answers.list.count == 1 }
    try bench.settle(qemu)
    #expect(answers.list == [info])
    #expect(QEMUScreen(qemu.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("A new socket ends the questions to the old one")
  func replaced() throws {
    let bench = try QEMUBench()
    let first = try bench.attach()
    first.answers = false
    let answers = Answers<DisplayInfo>()
    bench.display.displayInfo { answers.list.append($0) }
    bench.display.edid(output: 0) { _ in
      // Asking again from a completion goes to whoever is there then.
      bench.display.displayInfo { answers.list.append($0) }
    }
    let second = try bench.attach()
    second.info = info
    try bench.settle(second)
    #expect(answers.list.count == 2)
    #expect(answers.list.first == .some(nil))
  }
}
