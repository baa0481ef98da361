import Buffers
import CLinux
import Fences
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

/// What a renderer draws into, offered as it is.
@Suite struct FrameImageTests {
  /// `I915_FORMAT_MOD_Y_TILED_CCS`: the second plane says how the first is compressed.
  private static let compressed: UInt64 = 1 << 56 | 4

  /// An image in two planes, each of which is a file of its own unless `shared`.
  private func image(_ bench: FrameBench, shared: Bool = false) throws -> OfferedBuffer {
    let colors = SharedFD(try MemFD.create("image", size: 16384, seals: [.shrink]))
    let other =
      shared ? colors : SharedFD(try MemFD.create("compression", size: 16384, seals: [.shrink]))
    let host = HostBuffer(
      id: 1, width: 64, height: 32, fourcc: .xrgb8888, modifier: Self.compressed,
      planes: [
        .init(fd: colors, offset: 0, stride: 512), .init(fd: other, offset: 8192, stride: 64),
      ], memory: .dmaBuf,
      pixels: try bench.frame(try FakeBuffer(900)).pixels, mapping: nil)
    return try #require(OfferedBuffer(host, size: 16384))
  }

  private func commit(
    _ buffer: OfferedBuffer, _ bench: FrameBench, acquire: SharedFD? = nil, lock: Hold? = nil
  ) throws -> Commit {
    let pixels = try bench.frame(try FakeBuffer(900)).pixels
    let whole = Rect(x: 0, y: 0, width: 64, height: 32)
    return Commit(
      output: 0, crop: whole, damage: whole, pixels: pixels, buffer: buffer, lock: lock,
      acquire: acquire)
  }

  private func importer(
    _ bench: FrameBench, takesFences: Bool = false
  ) throws -> FrameConsumer {
    let consumer = try FrameConsumer(
      socket: try bench.socket(),
      options: .init(name: "importer", takesFences: takesFences, takesModifiers: true))
    _ = try bench.events(consumer)
    return consumer
  }

  @Test("Planes, modifier and descriptors arrive as they are", arguments: [false, true])
  func planes(shared: Bool) throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try importer(bench)
    let buffer = try image(bench, shared: shared)
    #expect(buffer.others.count == (shared ? 0 : 1))
    bench.server.present(try commit(buffer, bench))
    let frame = try #require(try bench.frames(consumer).first)
    let got = try #require(consumer.buffers[frame.buffer])
    #expect(got.memory == .dmaBuf && got.layout == buffer.layout)
    #expect(got.modifier == Self.compressed)
    #expect(got.layout.planes.map(\.descriptor) == [0, shared ? 0 : 1])
    #expect(got.layout.planes.map(\.stride) == [512, 64])
    #expect(got.layout.planes.map(\.offset) == [0, 8192])
    for (plane, fd) in zip(got.layout.planes, [buffer.fd, buffer.others.first ?? buffer.fd]) {
      #expect(inode(got.descriptor(of: plane)) == inode(fd.raw))
    }
  }

  @Test("Who can import no such image gets a copy, and its reason")
  func copies() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let stranger = try FrameConsumer(
      socket: try bench.socket(copiesOnly: true), options: .init(takesModifiers: true))
    _ = try bench.events(stranger)
    bench.server.present(try commit(try image(bench), bench))
    for (reader, reason) in [(consumer, FrameCopyReason.alignment), (stranger, .socket)] {
      let frame = try #require(try bench.frames(reader).first)
      #expect(reader.buffers[frame.buffer]?.memory == .copy)
      #expect(frame.copyReason == reason)
    }
  }

  @Test("Linear images go to everybody")
  func linear() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumer = try bench.consumer()
    let memory = SharedFD(try MemFD.create("linear", size: 16384, seals: [.shrink]))
    let buffer = OfferedBuffer(
      id: 77, generation: 1,
      layout: PixelLayout(width: 64, height: 32, stride: 256, fourcc: .xrgb8888), size: 16384,
      fd: memory, memory: .rendered)
    bench.server.present(try commit(buffer, bench))
    let frame = try #require(try bench.frames(consumer).first)
    #expect(consumer.buffers[frame.buffer]?.memory == .dmaBuf)
    #expect(frame.copyReason == nil)
  }

  @Test("The renderer waits until all have given it back")
  func lock() throws {
    let bench = try FrameBench()
    bench.enable()
    let consumers = [try importer(bench), try importer(bench)]
    var isFree = false
    let lock = Hold { isFree = true }
    bench.server.present(try commit(try image(bench), bench, lock: lock))
    let frames = try consumers.map { try #require(try bench.frames($0).first) }
    lock.release()
    try consumers[0].done(frames[0])
    try bench.turn()
    #expect(!isFree)
    try consumers[1].done(frames[1])
    try bench.turn()
    #expect(isFree)
  }

  @Test("Who cannot wait for a fence gets the picture once it is drawn, and is waited for")
  func acquire() throws {
    let bench = try FrameBench()
    bench.enable()
    let able = try importer(bench, takesFences: true)
    let plain = try importer(bench)
    // Looks like a sync_file: readable once it has signalled.
    let fence = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
    var isFree = false
    let lock = Hold { isFree = true }
    bench.server.present(try commit(try image(bench), bench, acquire: fence, lock: lock))
    lock.release()
    let early = try #require(try bench.frames(able).first)
    #expect(early.acquire != nil)
    #expect(try bench.frames(plain).isEmpty)
    try able.done(early)
    try bench.turn()
    #expect(!isFree, "it is drawn into again only when all have seen it")
    _ = ph_eventfd_signal(fence.raw)
    let late = try #require(try bench.frames(plain).first)
    #expect(late.acquire == nil && plain.buffers[late.buffer]?.memory == .dmaBuf)
    #expect(!isFree)
    try plain.done(late)
    try bench.turn()
    #expect(isFree)
  }

  private func inode(_ fd: CInt) -> ino_t? {
    var facts = stat()
    return fstat(fd, &facts) == 0 ? facts.st_ino : nil
  }
}
