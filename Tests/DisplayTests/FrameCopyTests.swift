import Buffers
import Fences
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol
import Testing

@testable import Display
@testable import VirtioGPU

/// A device's copies: one of a kind, counted, and at times none.
final class FakeCopies: CopySource {
  var made: [CopyAlignment: OfferedBuffer] = [:]
  var asked = 0
  var isBusy = false

  func copy(aligned: CopyAlignment) -> OfferedBuffer? {
    asked += 1
    guard !isBusy else { return nil }
    if let copy = made[aligned.pooled] { return copy }
    let pooled = aligned.pooled
    let copy = try? CopyBuffer(
      width: 64, height: 32, fourcc: .xrgb8888, strideAlignment: pooled.stride,
      heightAlignment: pooled.height)
    made[pooled] = copy?.offered
    return copy?.offered
  }
}

@Suite struct FrameCopyTests {
  private func show(
    _ bench: FrameBench, _ buffer: FakeBuffer, _ copies: FakeCopies?, hold: Hold? = nil
  ) throws {
    let frame = try bench.frame(buffer, hold: hold)
    bench.server.present(
      Frame(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels,
        buffer: frame.buffer, hold: hold, copies: copies))
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
    let copies = FakeCopies()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    var answers = 0
    let hold = Hold { answers += 1 }
    try show(bench, buffer, copies, hold: hold)
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
    #expect(copies.asked == 1)
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
      Frame(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels,
        buffer: frame.buffer, hold: nil, whyCopied: why))
    #expect(try bench.frames(consumer).first?.copyReason == heard)
  }

  @Test func withoutCopiesTheyGetNothing() throws {
    let bench = try FrameBench()
    bench.enable()
    let other = try consumer(bench, copiesOnly: true, .init(name: "other"))
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer, nil)
    let copies = FakeCopies()
    copies.isBusy = true
    try show(bench, buffer, copies)
    #expect(try bench.told(other) == ["output 0 64x32"])
    #expect(openCount(buffer.label) == 1)
  }

  @Test func copiesAreMadeOnlyForThoseWhoNeedThem() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let copies = FakeCopies()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    for _ in 0..<5 {
      try show(bench, buffer, copies)
      for frame in try bench.frames(consumer) { try consumer.done(frame) }
      try bench.turn()
    }
    #expect(copies.asked == 0)
  }

  @Test func aLateConsumerGetsCopiesUntilItHasCaughtUp() throws {
    let bench = try FrameBench { $0.holdDeadline = 1_000_000 }
    bench.enable()
    let consumer = try bench.consumer()
    let copies = FakeCopies()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    var answers = 0
    func flush() throws {
      let hold = Hold { answers += 1 }
      try show(bench, buffer, copies, hold: hold)
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
    let bench = try FrameBench()
    bench.enable()
    let first = try consumer(bench, copiesOnly: true, .init(name: "first"))
    let second = try consumer(bench, copiesOnly: true, .init(name: "second"))
    let copies = FakeCopies()
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer, copies)
    let held = try #require(try bench.frames(first).first)
    for frame in try bench.frames(second) { try second.done(frame) }
    try bench.turn()
    copies.isBusy = true
    try show(bench, buffer, copies)
    #expect(try bench.frames(second).isEmpty)
    copies.isBusy = false
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
    let copies = FakeCopies()
    // Rows of 256 bytes, two pages.
    let buffer = try FakeBuffer(1_000_000, memory: .guestPages)
    try show(bench, buffer, copies)
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
      id: 7, generation: 1, layout: plain.layout, size: plain.size, fd: plain.fd, memory: .copy,
      isYInverted: true)
    let frame = try bench.frame(try FakeBuffer(8))
    bench.server.present(
      Frame(
        output: 0, crop: frame.crop, damage: frame.damage, pixels: frame.pixels, buffer: inverted,
        hold: nil))
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
