import RenderWire
import Testing

@Suite struct RenderWireTests {
  private static let box = RenderBox(x: 1, y: 2, z: 3, width: 4, height: 5, depth: 6)
  private static let transfer = RenderTransfer(
    context: 1, resource: 2, level: 3, stride: 4, layerStride: 5, offset: 1 << 40, box: box)

  static let requests: [RenderRequest] = [
    .setUp(version: 1, ringSize: 1 << 33), .addFile(7, size: 1 << 34), .dropFile(7),
    .createContext(1, capset: 2, name: Array("glxgears".utf8)), .destroyContext(1),
    .attach(context: 1, resource: 2), .detach(context: 1, resource: 2),
    .createResource(
      2,
      RenderShape(
        target: 1, format: 2, bind: 3, width: 4, height: 5, depth: 6, arraySize: 7, lastLevel: 8,
        samples: 9, flags: 10)),
    .destroyResource(2),
    .attachBacking(
      2, (0..<5).map { RenderRun(file: $0, offset: UInt64($0) << 33, count: 4096) }),
    .detachBacking(2), .transferToHost(transfer), .transferFromHost(transfer),
    .submit(context: 3, [1, 2, 3, 4, 5, 6, 7, 8]), .fence,
    .readBack(2, box, RenderRun(file: 1, offset: 5, count: 6), stride: 7),
    .exportPicture(7, RenderPicture(width: 1, height: 2, stride: 256, fourcc: 0x3432_5258)),
    .dropExport(7),
  ]

  @Test func everyRequestIsRead() {
    #expect(Set(Self.requests.map(\.opcode)).count == RenderOpcode.allCases.count)
    for request in Self.requests {
      request.payload.withUnsafeBytes { #expect(RenderRequest(request.opcode, $0) == request) }
    }
  }

  /// A byte too few or too many is never taken for a request.
  @Test func lengthsAreExact() {
    for request in Self.requests {
      let payload = request.payload
      for bytes in [Array(payload.dropLast()), payload + [0]] where bytes.count != payload.count {
        bytes.withUnsafeBytes { #expect(RenderRequest(request.opcode, $0) == nil, "\(request)") }
      }
    }
  }

  @Test func answersAreRead() {
    let greeting = RenderGreeting(
      isRecent: true,
      capsets: [
        RenderCapset(id: 1, version: 1, data: [1, 2, 3]),
        RenderCapset(id: 2, version: 2, data: Array(repeating: 9, count: 1376)),
      ])
    let answers: [RenderAnswer] = [
      .ready(greeting), .unable(Array("no GL".utf8)), .done(error: 0), .done(error: 22),
      .exported(RenderTwin(stride: 512, offset: 4096, modifier: 1 << 56 | 9)),
    ]
    for answer in answers {
      let packet = answer.packet(id: 77)
      packet.withUnsafeBytes { bytes in
        let read = RenderAnswer.decode(bytes)
        #expect(read?.id == 77)
        #expect(read?.answer == answer)
      }
      for bytes in [Array(packet.dropLast()), packet + [0], Array(packet.prefix(15)), []] {
        bytes.withUnsafeBytes { #expect(RenderAnswer.decode($0) == nil) }
      }
    }
  }

  /// Both ends come from one build, unless somebody mixes two.
  @Test func picturesAndTwinsAreTheseBytes() {
    let request = RenderRequest.exportPicture(
      7, RenderPicture(width: 640, height: 480, stride: 2560, fourcc: 0x3432_5258))
    #expect(
      request.payload == [7, 0, 0, 0, 128, 2, 0, 0, 224, 1, 0, 0, 0, 10, 0, 0] + Array("XR24".utf8))
    #expect(request.opcode.rawValue == 17 && request.descriptors == 0)
    #expect(RenderRequest.dropExport(7).opcode.rawValue == 18)
    let answer = RenderAnswer.exported(
      RenderTwin(stride: 2560, offset: 1, modifier: 0x0102_0304_0506_0708))
    #expect(
      answer.packet(id: 9) == [
        3, 1, 0, 0, 9, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0,
        0, 10, 0, 0, 1, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1,
      ])
    #expect(answer.descriptors == 1 && RenderAnswer.done(error: 0).descriptors == 0)
    #expect(RenderWire.version == 2)
  }

  @Test func tooManyOrTooLargeCapsetsAreNoGreeting() {
    let many = (0..<9).map { RenderCapset(id: UInt32($0), version: 1, data: []) }
    let large = [RenderCapset(id: 1, version: 1, data: .init(repeating: 0, count: 8193))]
    for capsets in [many, large] {
      RenderAnswer.ready(RenderGreeting(isRecent: true, capsets: capsets)).packet(id: 0)
        .withUnsafeBytes { #expect(RenderAnswer.decode($0) == nil) }
    }
  }

  @Test func theRingsEndIsNotPassed() {
    let size = 1 << 20
    func place(_ offset: UInt64, _ count: UInt64) -> RingPlace? {
      RingPlace(offset: offset, count: count).bytes.withUnsafeBytes {
        RingPlace($0, ringSize: size)
      }
    }
    #expect(place(0, UInt64(size)) != nil)
    #expect(place(1, UInt64(size)) == nil)
    #expect(place(.max, 2) == nil)
    #expect(place(UInt64(size), 0) != nil)
  }

  @Test func commandsAndNewsAreRead() {
    for command in [RenderCommand.start(3), .kill(4)] {
      command.packet.withUnsafeBytes { #expect(RenderCommand($0) == command) }
      (command.packet + [0]).withUnsafeBytes { #expect(RenderCommand($0) == nil) }
    }
    for news in [
      RenderNews.started(1, pid: 99), .failed(2, error: 12), .ended(3, status: 137),
    ] {
      news.packet.withUnsafeBytes { #expect(RenderNews($0) == news) }
      news.packet.dropLast().withUnsafeBytes { #expect(RenderNews($0) == nil) }
    }
  }
}
