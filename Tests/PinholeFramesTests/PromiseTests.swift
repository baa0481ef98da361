import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels
import Testing

@testable import PinholeFrames

/// What the producer has promised, by its features or by what it said before.
@Suite struct PromiseTests {
  private func field(_ bench: ConsumerBench) -> UInt32? {
    guard case .malformed(_, let field, let text) = bench.failure() else {
      Issue.record("it was accepted")
      return nil
    }
    #expect(!text.isEmpty)
    return field
  }

  private func bench(
    _ options: FrameConsumer.Options, features: UInt64 = 0,
    _ change: (inout pinhole_producer_hello) -> Void = { _ in }
  ) throws -> ConsumerBench {
    let bench = try ConsumerBench(greets: false, options: options)
    _ = try bench.heard()
    var hello = ConsumerBench.hello()
    hello.features = features
    change(&hello)
    try bench.send(hello)
    return bench
  }

  /// An output, a buffer, and the frames given.
  private func show(
    _ bench: ConsumerBench, _ frames: [pinhole_frame], buffer: pinhole_buffer_add? = nil
  ) throws {
    try bench.send(ConsumerBench.output())
    let memory = try ConsumerBench.memory(size: 1 << 16)
    try bench.send(buffer ?? ConsumerBench.buffer(), fds: [memory.raw])
    for frame in frames { try bench.send(frame) }
  }

  @Test func theFirstFrameIsFull() throws {
    let bench = try bench(.init())
    var frame = ConsumerBench.frame()
    frame.flags = 0
    try show(bench, [frame])
    #expect(field(bench) == 12)
  }

  @Test func aFrameOfANewGenerationIsFull() throws {
    let bench = try bench(.init())
    try show(bench, [ConsumerBench.frame()])
    try bench.send(ConsumerBench.remove())
    let memory = try ConsumerBench.memory()
    try bench.send(ConsumerBench.buffer(2), fds: [memory.raw])
    var frame = ConsumerBench.frame(2)
    frame.generation = 2
    frame.flags = 0
    try bench.send(frame)
    #expect(field(bench) == 12)
  }

  @Test func aLaterFrameNeedNotBeFull() throws {
    let bench = try bench(.init())
    var frame = ConsumerBench.frame(2)
    frame.flags = 0
    try show(bench, [ConsumerBench.frame(), frame])
    #expect(bench.failure() == nil)
  }

  @Test func noMoreFramesAreInFlightThanWasSaid() throws {
    let bench = try bench(.init())
    try show(bench, (1...3).map { ConsumerBench.frame($0) })
    #expect(field(bench) == 16)
  }

  @Test func outputsAreNumberedAsWasSaid() throws {
    for send in [
      { (bench: ConsumerBench) in
        var output = ConsumerBench.output()
        output.output = 2
        try bench.send(output)
      },
      { (bench: ConsumerBench) in
        var cursor = ConsumerBench.cursor()
        cursor.output = 2
        let image = try ConsumerBench.image()
        try bench.send(cursor, fds: [image.raw])
      },
    ] {
      let bench = try bench(.init()) { $0.max_outputs = 2 }
      try send(bench)
      #expect(field(bench) == 8)
    }
  }

  @Test func copiesThatWereDemandedAreGiven() throws {
    #expect(field(try bench(.init(copyOnly: true))) == 16)
    let bench = try bench(.init(copyOnly: true), features: PINHOLE_FEATURE_COPY_ONLY)
    var buffer = ConsumerBench.buffer()
    buffer.flags = PINHOLE_BUFFER_DMABUF
    try show(bench, [], buffer: buffer)
    #expect(field(bench) == 28)
  }

  @Test func rowsAreAlignedWhereItWasAgreedOn() throws {
    let options = FrameConsumer.Options(strideAlignment: 128, heightAlignment: 64)
    let first = try bench(options, features: PINHOLE_FEATURE_ALIGNMENT)
    try show(first, [])
    #expect(field(first) == 60)
    let second = try bench(options, features: PINHOLE_FEATURE_ALIGNMENT)
    var buffer = ConsumerBench.buffer()
    buffer.planes.0.stride = 128
    try show(second, [], buffer: buffer)
    #expect(field(second) == 40)
    let third = try bench(options, features: PINHOLE_FEATURE_ALIGNMENT)
    buffer.size = 8192
    try show(third, [], buffer: buffer)
    #expect(third.failure() == nil)
  }

  @Test func aPictureThatIsTooLargeForThisConsumerIsRefused() throws {
    var options = FrameConsumer.Options()
    options.mostPixels = 16 * 8 - 1
    let bench = try bench(options)
    try show(bench, [])
    #expect(field(bench) == 16)
  }

  /// Two planes in two descriptors, and a modifier that only a driver understands.
  @Test func imagesOfAGPUAreTakenWhereTheyWereAskedFor() throws {
    var add = ConsumerBench.buffer()
    add.flags = PINHOLE_BUFFER_DMABUF
    add.fourcc = FourCC("N", "V", "1", "2").rawValue
    add.modifier = 0x0100_0000_0000_0002
    add.num_planes = 2
    add.num_fds = 2
    add.planes.0.stride = 16
    add.planes.1 = pinhole_plane(fd_index: 1, stride: 16, offset: 512)
    let first = try ConsumerBench.memory("frames-test-a")
    let second = try ConsumerBench.memory()
    let memory = [first.raw, second.raw]
    let plain = try bench(.init())
    try plain.send(add, fds: memory)
    #expect(field(plain) == 24)
    var tiled = ConsumerBench.buffer()
    tiled.flags = PINHOLE_BUFFER_DMABUF
    tiled.modifier = add.modifier
    let other = try self.bench(.init())
    try other.send(tiled, fds: [second.raw])
    #expect(field(other) == 32)
    let bench = try bench(
      .init(takesModifiers: true), features: PINHOLE_FEATURE_MODIFIERS)
    try bench.send(add, fds: memory)
    #expect(bench.failure() == nil)
    let buffer = try #require(bench.consumer.buffers.values.first)
    #expect(buffer.layout.planes.count == 2 && buffer.modifier == 0x0100_0000_0000_0002)
    #expect(buffer.descriptor(of: buffer.layout.planes[1]) != buffer.descriptor)
    #expect(throws: FramesError.self) { try buffer.pixels(of: Rect(width: 1, height: 1)) }
    // Both are closed with it.
    try bench.send(ConsumerBench.remove())
    #expect(bench.failure() == nil)
    #expect(openCount("frames-test-a") == 1)
    #expect(buffer.descriptor(of: buffer.layout.planes[1]) == -1)
  }

  /// What no plane lies in, and planes that begin where memory ends.
  @Test func imagesOfAGPUHaveAllTheirPlanesInTheirMemory() throws {
    var image = ConsumerBench.buffer()
    image.flags = PINHOLE_BUFFER_DMABUF
    image.modifier = 0x0100_0000_0000_0002
    image.num_planes = 2
    image.num_fds = 2
    image.planes.1 = pinhole_plane(fd_index: 1, stride: 16, offset: 4095)
    var outside = image
    outside.planes.1.offset = 4096
    var stray = image
    stray.planes.1.fd_index = 0
    let cases: [(pinhole_buffer_add, UInt32?)] = [(image, nil), (outside, 80), (stray, 52)]
    for (add, wrong) in cases {
      let label = "frames-test-planes-\(UInt64.random(in: 0 ... .max))"
      let memory = try ConsumerBench.memory(label)
      let bench = try bench(.init(takesModifiers: true), features: PINHOLE_FEATURE_MODIFIERS)
      try bench.send(add, fds: [memory.raw, memory.raw])
      if let wrong {
        #expect(field(bench) == wrong)
        #expect(openCount(label) == 1)
      } else {
        #expect(bench.failure() == nil && bench.consumer.buffers.count == 1)
      }
    }
  }

  /// Answers wait for room; the consumer does not.
  @Test func aProducerThatDoesNotReadStopsNobody() throws {
    let bench = try bench(.init())
    _ = try bench.consumer.next(timeout: 0)
    try bench.send(ConsumerBench.output())
    let memory = try ConsumerBench.memory()
    let count: UInt32 = 600
    for generation in 1...count {
      try bench.send(ConsumerBench.buffer(generation), fds: [memory.raw])
      var remove = ConsumerBench.remove()
      remove.generation = generation
      try bench.send(remove)
      while try bench.consumer.next(timeout: 0) != nil {}
    }
    var heard = 0
    for _ in 0..<count * 4 where heard < count {
      while try bench.heard() != nil { heard += 1 }
      #expect(try bench.consumer.next(timeout: 0) == nil)
    }
    #expect(heard == count)
  }

  /// As long as it says nothing of interest, the time runs.
  @Test func aProducerThatTalksNonsenseDoesNotKeepItsConsumer() throws {
    let bench = try bench(.init())
    _ = try bench.consumer.next(timeout: 0)
    for _ in 0..<100 { try bench.send(pinhole_header(type: PINHOLE_OPTIONAL | 5, size: 8)) }
    #expect(try bench.consumer.next(timeout: 1) == nil)
  }
}
