import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels
import Testing

@testable import PinholeFrames

@Suite struct ConsumerTests {
  @Test func itIntroducesItself() throws {
    let bench = try ConsumerBench(greets: false, options: .init(name: "abc"))
    #expect(
      try bench.heard()
        == "01000000" + "48000000"  // type, size
        + "50484652" + "01000000" + "01000000" + "00000000"  // magic, versions, flags
        + "0000000000000000" + "00000000" + "00000000"  // features, alignments
        + "616263" + String(repeating: "00", count: 29))
  }

  @Test func copyOnlyIsADemand() throws {
    let bench = try ConsumerBench(
      greets: false, options: .init(name: String(repeating: "ü", count: 40), copyOnly: true))
    let hello = try #require(try bench.heard())
    #expect(hello.dropFirst(40).prefix(24) == "01000000" + "0800000000000000")
    // The name is cut between characters.
    #expect(hello.suffix(64) == String(repeating: "c3bc", count: 15) + "0000")
  }

  @Test func timelinesAndTheirPoints() throws {
    let bench = try ConsumerBench(greets: false, options: .init(takesTimelines: true))
    let wish = try #require(try bench.heard())
    #expect(wish.dropFirst(48).prefix(16) == "0200000000000000")
    var answer = ConsumerBench.hello()
    answer.features = PINHOLE_FEATURE_TIMELINE
    try bench.send(answer)
    _ = try bench.consumer.next(timeout: 0)
    let null = try OwnedFD.open("/dev/null", O_RDWR)
    try bench.consumer.addTimeline(output: 2, syncobj: null.raw, node: null.raw)
    #expect(
      try bench.heard(descriptors: 2)
        == "04000000" + "18000000" + "02000000" + "00000000" + "00000000" + "01000000")
    try bench.showFrame()
    let frame = ReceivedFrame(
      output: 0, serial: 1, buffer: BufferName(number: 3, generation: 1),
      crop: Rect(x: 0, y: 0, width: 16, height: 8), damage: [], isFull: true,
      hasSkipped: false, timestamp: 0, acquire: nil, copyReason: nil)
    try bench.consumer.done(frame, point: 0x1122_3344_5566_7788)
    #expect(
      try bench.heard()
        == "02000000" + "20000000" + "00000000" + "02000000" + "0100000000000000"
        + "8877665544332211")
    try bench.consumer.removeTimeline(output: 2)
    #expect(try bench.heard() == "05000000" + "10000000" + "02000000" + "00000000")
  }

  @Test func withoutAgreementThereAreNoTimelines() throws {
    let bench = try ConsumerBench(options: .init(takesTimelines: true))
    #expect(!bench.consumer.mayUseTimelines)
    #expect(throws: FramesError.self) {
      try bench.consumer.addTimeline(output: 0, syncobj: 0, node: 0)
    }
    #expect(try bench.heard() == nil)
    #expect(!FrameConsumer.hasTimelines(node: 0))
  }

  @Test func allEventsArrive() throws {
    let bench = try ConsumerBench(greets: false)
    _ = try bench.heard()
    try bench.send(ConsumerBench.hello())
    try bench.send(ConsumerBench.output())
    let memory = try ConsumerBench.memory("frames-test-events")
    try bench.send(ConsumerBench.buffer(), fds: [memory.raw])
    try bench.send(ConsumerBench.frame(6))
    var frame = ConsumerBench.frame(7)
    frame.flags = PINHOLE_FRAME_SKIPPED
    frame.num_damage = 2
    frame.damage.0 = pinhole_rect(x: 1, y: 2, width: 3, height: 4)
    frame.damage.1 = pinhole_rect(x: 0, y: 0, width: 16, height: 1)
    frame.timestamp_ns = 99
    try bench.send(frame)
    let image = try ConsumerBench.image("frames-test-events-cursor")
    try bench.send(ConsumerBench.cursor(), fds: [image.raw])
    try bench.send(pinhole_header(type: PINHOLE_OPTIONAL | 5, size: 8), fds: [memory.raw])
    try bench.send(ConsumerBench.remove())
    var off = ConsumerBench.output()
    (off.flags, off.width, off.height) = (0, 0, 0)
    try bench.send(off)
    var events: [FrameConsumer.Event] = []
    while let event = try bench.consumer.next(timeout: 0) { events.append(event) }
    #expect(
      events.map(\.description) == [
        "connected version 1 in-flight 2 hold 40000us name fake", "output 0 16x8",
        "buffer 3.1 add 16x8 XR24 stride 64 copy",
        "frame 0 serial 6 buffer 3.1 damage 0,0 16x8 full",
        "frame 0 serial 7 buffer 3.1 damage 1,2 3x4, 0,0 16x1 skipped",
        "cursor 0 at 0,0 image 2x2 hot 0,0", "buffer 3.1 remove discarded", "output 0 off",
      ])
    guard case .frame(let received) = events[4], case .cursor(let cursor) = events[5] else {
      Issue.record("not a frame and a cursor")
      return
    }
    #expect(received.timestamp == 99)
    #expect(cursor.image?.pixels == (0..<16).map { UInt8($0) })
    // Nothing but our own descriptors is left of the memory and the image.
    #expect(openCount("frames-test-events") == 2)
  }

  @Test func pixelsAreReadWhereTheyLie() throws {
    let bench = try ConsumerBench()
    try bench.showFrame()
    let buffer = try #require(bench.consumer.buffers[BufferName(number: 3, generation: 1)])
    #expect(
      try buffer.pixels(of: Rect(x: 1, y: 1, width: 1, height: 2))
        == [68, 69, 70, 71, 132, 133, 134, 135])
    #expect(try buffer.read { $0.count } == 4096)
    #expect(throws: FramesError.self) {
      try buffer.pixels(of: Rect(x: 16, y: 0, width: 1, height: 1))
    }
  }

  @Test func invertedPicturesAreTurned() throws {
    let bench = try ConsumerBench()
    var add = ConsumerBench.buffer()
    add.flags |= PINHOLE_BUFFER_Y_INVERT
    let memory = try ConsumerBench.memory()
    try bench.send(add, fds: [memory.raw])
    guard case .bufferAdded(let buffer) = try bench.consumer.next(timeout: 0) else {
      Issue.record("no buffer")
      return
    }
    #expect(try buffer.pixels(of: Rect(x: 0, y: 7, width: 1, height: 1)) == [0, 1, 2, 3])
  }

  /// The bytes in memory count up, 64 a row.
  @Test(arguments: [
    (FourCC.xrgb8888, false, [0x4e_4d4c, 0x52_5150, 0x8e_8d8c, 0x92_9190]),
    (.xbgr8888, false, [0x4c_4d4e, 0x50_5152, 0x8c_8d8e, 0x90_9192]),
    (.xrgb8888, true, [0x8e_8d8c, 0x92_9190, 0x4e_4d4c, 0x52_5150]),
  ])
  func pixelsAreColours(
    _ fourcc: FourCC, _ isInverted: Bool, _ expected: [UInt32]
  ) throws {
    let bench = try ConsumerBench()
    var add = ConsumerBench.buffer()
    add.fourcc = fourcc.rawValue
    if isInverted { add.flags |= PINHOLE_BUFFER_Y_INVERT }
    let memory = try ConsumerBench.memory()
    try bench.send(add, fds: [memory.raw])
    _ = try bench.consumer.next(timeout: 0)
    let buffer = try #require(bench.consumer.buffers.values.first)
    var colours: [UInt32] = [1, 2, 3]
    // Rows 1 and 2 of 8, from either end.
    try buffer.read(
      colours: &colours, of: Rect(x: 3, y: isInverted ? 5 : 1, width: 2, height: 2))
    #expect(colours == expected)
    #expect(throws: FramesError.self) {
      try buffer.read(colours: &colours, of: Rect(x: 15, y: 0, width: 2, height: 1))
    }
  }

  /// Nobody hangs on a producer that is stopped.
  @Test func whoDoesNotAcceptIsNotWaitedForForEver() throws {
    let path = "/tmp/pinhole-frames-full-\(getpid()).sock"
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: .seqpacket, backlog: 0)
    var options = FrameConsumer.Options()
    options.patience = 0
    let first = try FrameConsumer(path: path, options: options)
    for patience in [0, 20] as [UInt32] {
      options.patience = patience
      do {
        _ = try FrameConsumer(path: path, options: options)
        Issue.record("there was room")
      } catch {
        #expect("\(error)".hasPrefix("cannot connect to \(path): "))
        #expect("\(error)".hasSuffix("see whether `pinhole serve --frames-socket \(path)` hangs"))
      }
    }
    // Once it accepts, the connection is like any other: its calls wait.
    let accepted = try UnixSocket.accept(listener.raw)
    let second = try UnixSocket.connect(path, kind: .seqpacket, patience: 20)
    #expect(!UnixSocket.isNonblocking(first.fd) && !UnixSocket.isNonblocking(second.raw))
    var time = timeval()
    var size = socklen_t(MemoryLayout<timeval>.size)
    #expect(getsockopt(second.raw, SOL_SOCKET, SO_SNDTIMEO, &time, &size) == 0)
    #expect(time.tv_sec == 0 && time.tv_usec == 0)
    _ = accepted
  }

  @Test func aFrameIsAnsweredOnce() throws {
    let bench = try ConsumerBench()
    try bench.send(ConsumerBench.output())
    let memory = try ConsumerBench.memory()
    try bench.send(ConsumerBench.buffer(), fds: [memory.raw])
    try bench.send(ConsumerBench.frame(0x1122))
    var frames: [ReceivedFrame] = []
    while let event = try bench.consumer.next(timeout: 0) {
      if case .frame(let frame) = event { frames.append(frame) }
    }
    let frame = try #require(frames.first)
    try bench.consumer.done(frame)
    try bench.consumer.done(frame)
    #expect(
      try bench.heard()
        == "02000000" + "20000000" + "00000000" + "00000000" + "2211000000000000"
        + "0000000000000000")
    #expect(try bench.heard() == nil)
  }

  @Test func aRemovedBufferIsClosedBeforeItIsReported() throws {
    let bench = try ConsumerBench()
    try bench.showFrame()
    let buffer = try #require(bench.consumer.buffers[BufferName(number: 3, generation: 1)])
    _ = try buffer.read { $0.count }
    try bench.send(ConsumerBench.remove())
    let event = try bench.consumer.next(timeout: 0)
    #expect(event?.description == "buffer 3.1 remove discarded")
    #expect(try bench.heard() == "03000000" + "10000000" + "03000000" + "01000000")
    #expect(buffer.descriptor == -1)
    #expect(throws: FramesError.self) { try buffer.read { $0.count } }
    // The frame went with it.
    try bench.consumer.done(
      ReceivedFrame(
        output: 0, serial: 1, buffer: buffer.name,
        crop: Rect(x: 0, y: 0, width: 16, height: 8), damage: [], isFull: true,
        hasSkipped: false, timestamp: 0, acquire: nil, copyReason: nil))
    #expect(try bench.heard() == nil)
  }

  @Test func anImporterClosesByItself() throws {
    let bench = try ConsumerBench(options: .init(closesRemovedBuffers: false))
    try bench.showFrame()
    let name = BufferName(number: 3, generation: 1)
    try bench.send(ConsumerBench.remove())
    _ = try bench.consumer.next(timeout: 0)
    #expect(try bench.heard() == nil)
    #expect(bench.consumer.buffers.isEmpty)
    try bench.consumer.closed(name)
    try bench.consumer.closed(name)
    #expect(try bench.heard() == "03000000" + "10000000" + "03000000" + "01000000")
    #expect(try bench.heard() == nil)
  }

  @Test func unknownReasonsAreTakenForDestruction() throws {
    let bench = try ConsumerBench()
    try bench.showFrame()
    var remove = ConsumerBench.remove()
    remove.reason = 77
    try bench.send(remove)
    #expect(try bench.consumer.next(timeout: 0)?.description == "buffer 3.1 remove destroyed")
  }

  @Test func refusalsSayWhy() throws {
    let bench = try ConsumerBench(greets: false)
    var error = pinhole_error()
    error.header = ConsumerBench.header(PINHOLE_ERROR, pinhole_error.self)
    error.code = PINHOLE_ERROR_DENIED.rawValue
    error.field_offset = PINHOLE_NO_FIELD
    WireText.write("user 7 may not look", to: &error.text)
    try bench.send(error)
    #expect(
      bench.failure()?.description == "the producer refused: DENIED: user 7 may not look")
  }

  @Test func silenceAndTheEndAreToldApart() throws {
    let bench = try ConsumerBench()
    #expect(try bench.consumer.next(timeout: 0) == nil)
    shutdown(bench.producer.raw, CInt(SHUT_RDWR))
    #expect(bench.failure()?.description == "the producer closed the connection")
  }

  @Test func aPathWithoutProducerIsNamed() {
    var text = ""
    do {
      _ = try FrameConsumer(path: "/nonexistent/frames")
    } catch {
      text = "\(error)"
    }
    #expect(
      text == "cannot connect to /nonexistent/frames: No such file or directory; start "
        + "`pinhole serve --frames-socket /nonexistent/frames`, or give the path that it was "
        + "started with")
  }
}

/// How many descriptors of a file with this in its name are open.
func openCount(_ name: String) -> Int {
  (0..<1024).filter { number in
    withUnsafeTemporaryAllocation(byteCount: 256, alignment: 1) { out in
      guard let text = out.baseAddress else { return false }
      let count = readlink("/proc/self/fd/\(number)", text, 256)
      return String(decoding: out.prefix(max(0, count)), as: UTF8.self).contains(name)
    }
  }.count
}
