import Buffers
import Fences
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

@Suite struct FrameCopyTests {
  /// Guest pages whose pixels can be copied as well.
  private func show(_ bench: FrameBench, _ buffer: FakeBuffer, hold: Hold? = nil) throws {
    try bench.show(buffer, hold: hold)
  }

  private func consumer(
    _ bench: FrameBench, copiesOnly: Bool = false, _ options: FrameConsumer.Options
  ) throws -> FrameConsumer {
    let consumer = try FrameConsumer(
      socket: try bench.socket(copiesOnly: copiesOnly), options: options)
    try bench.turn()
    _ = try #require(try consumer.next(timeout: 0))
    return consumer
  }

  @Test(arguments: [true, false])
  func copyOnlyConsumersGetReadOnlyCopiesAndHoldNobody(_ isSocket: Bool) throws {
    let bench = try FrameBench()
    bench.enable()
    let trusted = try bench.consumer()
    let other = try consumer(
      bench, copiesOnly: isSocket, .init(name: "other", copyOnly: !isSocket, takesFences: true))
    #expect(other.producer?.features == (isSocket ? 0 : PINHOLE_FEATURE_COPY_ONLY))
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    var answers = 0
    let hold = Hold { answers += 1 }
    try show(bench, buffer, hold: hold)
    hold.release()
    let direct = try #require(try bench.frames(trusted).first)
    let copied = try #require(try bench.frames(other).first)
    #expect(trusted.buffers[direct.buffer]?.memory == .dmaBuf)
    #expect(other.buffers[copied.buffer]?.memory == .copy)
    #expect(direct.buffer != copied.buffer)
    #expect(direct.copyReason == nil)
    #expect(copied.copyReason == (isSocket ? .socket : .asked))
    try #require(other.buffers[copied.buffer]).expectReadOnly()
    #expect(answers == 0, "the trusted consumer still looks")
    try trusted.done(direct)
    try bench.turn()
    #expect(answers == 1, "nobody waits for readers of a copy")
    #expect(bench.server.counters.copiesSent == 1)
    #expect(bench.scene.counters.copies == 1)
  }

  @Test(arguments: [
    (WhyCopied.redrawn, FrameCopyReason.redrawn), (.asked, .operator), (.pages(nil), .memory),
    (.pages(.noDevice), .udmabuf), (.pages(.tooLarge), .limit),
    (.pages(.unalignedStart), .placement),
    (.pages(.witnessUnavailable), .witness), (.pages(.overPinBudget), .budget),
    (.pages(.discardsOutran), .discards),
  ])
  func consumersHearWhyThereAreCopies(_ why: WhyCopied, _ heard: FrameCopyReason) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1_000_000, memory: .copy)
    let frame = try bench.frame(buffer, hold: nil)
    bench.server.present(
      Commit(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels,
        buffer: frame.buffer, lock: nil, whyCopied: why))
    #expect(try bench.frames(consumer).first?.copyReason == heard)
  }

  @Test(arguments: [
    (RevocationReason.destroyed, RemovalReason.destroyed), (.discarded, .discarded),
    (.rebacked, .rebacked), (.reset, .reset), (.memoryRemoved, .memory), (.unused, .unused),
    (.shutdown, .shutdown), (.timeout, .timeout),
  ])
  func consumersHearWhyBuffersGo(_ why: RevocationReason, _ heard: RemovalReason) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    _ = try bench.events(consumer)
    bench.server.revoke(buffer.offered, reason: why) {}
    guard case .bufferRemoved(_, let reason)? = try bench.events(consumer).first else {
      Issue.record("it was not removed")
      return
    }
    #expect(reason == heard)
  }

  private static let pooling: FrameConsumer.Options = {
    var options = FrameConsumer.Options(name: "pool", copyOnly: true)
    options.takesPool = true
    return options
  }()

  @Test func whoPassesCopiesOnHearsOfAllBeforeTheFirst() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try consumer(bench, Self.pooling)
    #expect(consumer.producer?.maxInFlight == 4)
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    var events = try bench.events(consumer)
    let told = events.map { $0.description.split(separator: " ")[0] }
    #expect(told == ["output"] + [Substring](repeating: "buffer", count: 6) + ["frame"])
    #expect(consumer.buffers.count == 6)
    #expect(consumer.buffers.values.allSatisfy { $0.memory == .copy })
    // Four without an answer, each in a copy that was told of, and full in it.
    for _ in 0..<4 { try show(bench, buffer) }
    events += try bench.events(consumer)
    #expect(consumer.buffers.count == 6)
    #expect(bench.server.counters.framesSent == 4)
    for case .frame(let frame) in events {
      #expect(frame.isFull)
      try consumer.done(frame)
    }
    // Copies of another size are others.
    bench.scene.resize(0, to: (32, 32))
    let small = try FakeBuffer(1_000_001, width: 32, memory: .guestPages)
    try show(bench, small)
    _ = try bench.events(consumer)
    #expect(consumer.buffers.values.filter { $0.width == 32 }.count == 6)
  }

  /// A copy stays with those who pass it on, until somebody lacks one.
  @Test func whoPassesCopiesOnKeepsThem() throws {
    let bench = try FrameBench(copies: 2) { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let keeper = try consumer(bench, Self.pooling)
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    let first = try #require(try bench.frames(keeper).first)
    usleep(20_000)
    try bench.turn()
    #expect(bench.server.counters.copiesLate == 0)
    let other = try consumer(bench, .init(name: "other", copyOnly: true))
    try show(bench, buffer)
    let second = try #require(try bench.frames(keeper).first)
    #expect(second.buffer != first.buffer)
    for frame in try bench.frames(other) { try other.done(frame) }
    // Both copies are kept, and the other one has none for what comes now.
    try show(bench, buffer)
    var got: [ReceivedFrame] = []
    try bench.turn(until: {
      got += (try? bench.frames(other)) ?? []
      return !got.isEmpty
    })
  }

  /// Once everybody has a copy again, nothing more is taken from those who pass them on.
  @Test func aShortageEnds() throws {
    let bench = try FrameBench(copies: 2) { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let keeper = try consumer(bench, Self.pooling)
    let other = try consumer(bench, .init(name: "other", copyOnly: true))
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    func answer() throws -> Int {
      let frames = try bench.frames(other)
      for frame in frames { try other.done(frame) }
      try bench.turn()
      return frames.count
    }
    for _ in 0..<2 {
      try show(bench, buffer)
      #expect(try answer() == 1)
    }
    try show(bench, buffer)
    var answered = 0
    try bench.turn(until: {
      answered += (try? answer()) ?? 0
      return answered > 0
    })
    let taken = bench.server.counters.copiesLate
    #expect(taken > 0, "there were two, and both were kept")
    usleep(20_000)
    try bench.turn()
    #expect(bench.server.counters.copiesLate == taken)
    withExtendedLifetime(keeper) {}
  }

  @Test(arguments: [true, false]) func strangersAndReadersOfPagesHaveNoPool(_ isSocket: Bool) throws
  {
    let bench = try FrameBench()
    var options = Self.pooling
    options.copyOnly = false
    let consumer = try consumer(bench, copiesOnly: isSocket, options)
    #expect(consumer.producer?.features == 0)
    #expect(consumer.producer?.maxInFlight == 2)
  }

  @Test func withoutMemoryForCopiesTheyGetNothing() throws {
    let bench = try FrameBench()
    bench.enable()
    bench.scene.memory.limit = 0
    let other = try consumer(bench, copiesOnly: true, .init(name: "other"))
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    try show(bench, buffer)
    #expect(try bench.told(other) == ["output 0 64x32"])
    #expect(openCount(buffer.label) == 1)
  }

  @Test func copiesAreMadeOnlyForThoseWhoNeedThem() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    for _ in 0..<5 {
      try show(bench, buffer)
      for frame in try bench.frames(consumer) { try consumer.done(frame) }
      try bench.turn()
    }
    #expect(bench.scene.counters.copies == 0)
  }

  @Test func aLateConsumerGetsCopiesUntilItHasCaughtUp() throws {
    let bench = try FrameBench { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    var answers = 0
    func flush() throws {
      let hold = Hold { answers += 1 }
      try show(bench, buffer, hold: hold)
      hold.release()
    }
    try flush()
    #expect(answers == 0)
    try bench.turn { answers == 1 }
    try flush()
    #expect(answers == 2, "it holds nobody any more")
    let frames = try bench.frames(consumer)
    #expect(frames.map { consumer.buffers[$0.buffer]?.memory } == [.dmaBuf, .copy])
    for frame in frames { try consumer.done(frame) }
    try bench.turn()
    try flush()
    let again = try #require(try bench.frames(consumer).first)
    #expect(consumer.buffers[again.buffer]?.memory == .dmaBuf)
    #expect(answers == 2)
    try consumer.done(again)
    try bench.turn { answers == 3 }
  }

  @Test func aConsumerThatWaitsForACopyGetsTheNextFreeOne() throws {
    let bench = try FrameBench(copies: 1)
    bench.enable()
    let first = try consumer(bench, copiesOnly: true, .init(name: "first"))
    let second = try consumer(bench, copiesOnly: true, .init(name: "second"))
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    let held = try #require(try bench.frames(first).first)
    for frame in try bench.frames(second) { try second.done(frame) }
    try bench.turn()
    try show(bench, buffer)
    #expect(try bench.frames(second).isEmpty)
    try first.done(held)
    try bench.turn()
    #expect(try bench.frames(second).count == 1)
  }

  @Test(arguments: [(0, 0), (16, 1), (1024, 0), (4096, 64), (64, 256)] as [(UInt32, UInt32)])
  func rowsAreAsTheConsumerAsks(_ stride: UInt32, _ height: UInt32) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try consumer(
      bench, .init(name: "picky", strideAlignment: stride, heightAlignment: height))
    // Rows of 256 bytes, two pages.
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer)
    let frame = try #require(try bench.frames(consumer).first)
    let got = try #require(consumer.buffers[frame.buffer])
    let fits = stride <= 256 && height <= 32
    #expect(got.memory == (fits ? .dmaBuf : .copy))
    if stride > 0 { #expect(got.stride % stride == 0) }
    let rows = height > 0 ? (32 + height - 1) / height * height : 32
    #expect(got.size >= UInt64(got.stride) * UInt64(rows))
    #expect(consumer.producer?.features == (stride + height > 0 ? PINHOLE_FEATURE_ALIGNMENT : 0))
  }

  @Test func anInvertedPictureIsNamedSo() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let plain = try FakeBuffer(7).offered
    let inverted = OfferedBuffer(
      id: 7, generation: 1, layout: try #require(plain.layout.packed), size: plain.size,
      fd: plain.fd, memory: .copy,
      isYInverted: true)
    let frame = try bench.frame(try FakeBuffer(8))
    bench.server.present(
      Commit(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels, buffer: inverted,
        lock: nil))
    #expect(try bench.told(consumer).contains { $0.hasSuffix("copy y-inverted") })
  }
}

extension ReceivedBuffer {
  /// Tries all that a program could do to write.
  func expectReadOnly(sourceLocation: SourceLocation = #_sourceLocation) throws {
    let fd = descriptor
    var byte: UInt8 = 1
    func refuses(_ what: String, _ result: Int) {
      #expect(result < 0, "\(what) was not refused", sourceLocation: sourceLocation)
    }
    #expect(throws: Errno.self, sourceLocation: sourceLocation) {
      _ = try Mapping(fd: fd, offset: 0, count: 4096, writable: true)
    }
    refuses("pwrite", Glibc.pwrite(fd, &byte, 1, 0))
    refuses("write", Glibc.write(fd, &byte, 1))
    refuses("ftruncate to 0", Int(Glibc.ftruncate(fd, 0)))
    refuses("ftruncate to more", Int(Glibc.ftruncate(fd, off_t(size) + 4096)))
    #expect(throws: Errno.self, sourceLocation: sourceLocation) {
      try MemFD.punchHole(fd, offset: 0, count: 4096)
    }
    #expect(throws: Errno.self, sourceLocation: sourceLocation) { try MemFD.add([.write], to: fd) }
    let reopened = try OwnedFD.open("/proc/self/fd/\(fd)", O_RDWR)
    refuses("pwrite to a second descriptor", Glibc.pwrite(reopened.raw, &byte, 1, 0))
    // A readable mapping cannot become a writable one.
    let mapping = try Mapping(fd: fd, offset: 0, count: 4096, writable: false)
    refuses("mprotect", Int(Glibc.mprotect(mapping.base, 4096, PROT_READ | PROT_WRITE)))
  }
}
