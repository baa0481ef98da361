import Buffers
import Linux
import Scene
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: rubbish and disconnects")
struct QEMURubbishTests {
  struct Rubbish: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let request: UInt32
    var flags: UInt32 = 4
    let size: UInt32
    var payload: [UInt8] = []
  }

  /// Replies while GET_PROTOCOL_FEATURES, GET_DISPLAY_INFO and GET_EDID wait.
  static let rubbish = [
    Rubbish(testDescription: "features of size 0", request: 1, size: 0),
    Rubbish(testDescription: "display info of size 0", request: 3, size: 0),
    Rubbish(testDescription: "EDID of size 0", request: 11, size: 0),
    Rubbish(testDescription: "huge display info", request: 3, size: .max),
    Rubbish(testDescription: "huge unknown", request: 77, size: 1057),
    Rubbish(
      testDescription: "features too long", request: 1, size: 12,
      payload: Array(repeating: 0, count: 12)),
    Rubbish(
      testDescription: "display info too short", request: 3, size: 407,
      payload: Array(repeating: 0, count: 407)),
    Rubbish(
      testDescription: "EDID size above 1024", request: 11, size: 1056,
      payload: Array(repeating: 0, count: 24) + [1, 4] + Array(repeating: 0, count: 1030)),
    Rubbish(
      testDescription: "EDID size far above", request: 11, size: 1056,
      payload: Array(repeating: 255, count: 1056)),
    Rubbish(testDescription: "a reply to nothing", request: 7, size: 0),
    Rubbish(testDescription: "an ack of no update", request: 10, size: 0),
    Rubbish(testDescription: "request 0", request: 0, size: 0),
    Rubbish(
      testDescription: "no reply flag", request: 1, flags: 0, size: 8,
      payload: [0, 0, 0, 0, 0, 0, 0, 0]),
  ]

  @Test(
    "A malformed reply closes the socket, answers what waits, and the next one works",
    arguments: rubbish)
  func malformed(rubbish: Rubbish) throws {
    let bench = try QEMUBench(patience: 3_600_000_000_000)
    let canvas = Canvas(64, 32)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach()
    if rubbish.request == 11 {
      // Only an EDID that was asked for can be of the wrong size.
      try bench.settle(qemu)
    }
    qemu.answers = false
    var answered = 0
    bench.display.displayInfo { answered += $0 == nil ? 1 : 100 }
    bench.display.edid(output: 0) { answered += $0 == nil ? 1 : 100 }
    qemu.send(
      request: rubbish.request, flags: rubbish.flags, size: rubbish.size,
      payload: rubbish.payload)
    try bench.turn(qemu) { !bench.display.isAttached }
    qemu.serve()
    #expect(qemu.sawEnd)
    #expect(answered == 2)
    bench.present(0)
    let next = try bench.attach()
    try bench.settle(next)
    #expect(QEMUScreen(next.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test(
    "QEMU may go at any byte", arguments: [0, 1, 11, 12, 13, 40, 44, 45, 3000, 60_000, 120_000])
  func disconnect(bytes: Int) throws {
    let bench = try QEMUBench(patience: 3_600_000_000_000)
    let canvas = Canvas(200, 150)
    bench.source.canvases[0] = canvas
    let qemu = try bench.attach(sendBuffer: 1)
    var answered = 0
    bench.display.displayInfo { _ in answered += 1 }
    while qemu.received < bytes {
      let before = qemu.received
      qemu.serve(limit: min(2000, bytes - before))
      try bench.loop.turn(timeout: 0)
    }
    qemu.close()
    bench.present(0)
    bench.display.output(0, resized: nil)
    try bench.turn { !bench.display.isAttached }
    #expect(answered == 1)
    let next = try bench.attach()
    try bench.settle(next)
    #expect(QEMUScreen(next.requests).colors(0) == canvas.colors(bench.source.crop(0)))
  }

  @Test("A peer that is gone before it was attached is dropped")
  func goneAlready() throws {
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(64, 32)
    for _ in 0..<100 {
      let qemu = try bench.attach()
      qemu.close()
      bench.present(0)
    }
    try bench.turn { !bench.display.isAttached }
  }

  @Test("What is not a stream socket is turned away")
  func notASocket() throws {
    let bench = try QEMUBench()
    let old = try bench.attach()
    bench.display.attach(try MemFD.create("file", size: 4096))
    #expect(!bench.display.isAttached)
    try UnixSocket.Pair(.seqpacket).split { ours, _ in bench.display.attach(ours) }
    #expect(!bench.display.isAttached)
    old.serve()
    #expect(old.sawEnd)
  }

  @Test("Half a reply is waited for and does no harm")
  func halfReply() throws {
    let bench = try QEMUBench()
    let qemu = try bench.attach()
    qemu.answers = false
    qemu.send([1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 0])
    try bench.settle(qemu)
    #expect(bench.display.isAttached)
    qemu.send([0, 0, 0, 0, 0, 0])
    try bench.settle(qemu)
    #expect(qemu.requests.last == .setProtocolFeatures(.edid))
  }

  @Test("Random bytes close the socket or are waited for")
  func random() throws {
    let seed = UInt64.random(in: 1 ... .max)
    var state = seed
    func next() -> UInt64 {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return state
    }
    let bench = try QEMUBench()
    bench.source.canvases[0] = Canvas(16, 16)
    for _ in 0..<300 {
      let qemu = try bench.attach()
      qemu.answers = next() % 2 == 0
      bench.display.displayInfo { _ in }
      bench.display.edid(output: Int(next() % 17)) { _ in }
      for _ in 0..<next() % 4 {
        let kinds: [UInt32] = [1, 3, 10, 11, UInt32(truncatingIfNeeded: next())]
        let sizes: [UInt32] = [0, 8, 408, 1056, UInt32(truncatingIfNeeded: next() % 2000)]
        let size = sizes[Int(next() % 5)]
        let payload = (0..<size).map { _ in UInt8(truncatingIfNeeded: next() % 3 &* 127) }
        qemu.send(
          request: kinds[Int(next() % 5)], flags: next() % 8 == 0 ? 0 : 4, size: size,
          payload: payload)
        try bench.settle(qemu)
      }
    }
    let last = try bench.attach()
    try bench.settle(last)
    #expect(last.shown.count == 2, "seed \(seed)")
  }
}
