import Buffers
import CLinux
import Fences
import FrameServer
import Glibc
import GuestMemory
import Linux
import Logging
import PinholeFrames
import Pixels
import Scene
import Testing

/// A frame that a GPU still draws, shown by a server in this thread.
@Suite(
  .serialized,
  .enabled(
    if: access("/dev/udmabuf", R_OK | W_OK) == 0 && Vgem.isHere, "needs /dev/udmabuf and vgem"))
struct FenceAcquireTests {
  private func consumer(
    _ server: FrameServer, _ loop: EventLoop, _ options: FrameConsumer.Options
  ) throws -> FrameConsumer {
    let pair = try UnixSocket.Pair(.seqpacket)
    var ours: OwnedFD?
    pair.split { first, second in
      server.serve(first)
      ours = consume second
    }
    guard let ours = ours.take() else { throw Errno(EBADF, "socketpair") }
    let consumer = try FrameConsumer(socket: ours, options: options)
    for _ in 0..<4 { try loop.turn(timeout: 0) }
    _ = try #require(try consumer.next(timeout: 0))
    return consumer
  }

  private func frames(_ consumer: FrameConsumer, _ loop: EventLoop) throws -> [ReceivedFrame] {
    for _ in 0..<4 { try loop.turn(timeout: 0) }
    var frames: [ReceivedFrame] = []
    while let event = try consumer.next(timeout: 0) {
      if case .frame(let frame) = event { frames.append(frame) }
    }
    return frames
  }

  @Test func aFenceGoesWithTheFrameOrIsWaitedFor() throws {
    let loop = try EventLoop()
    var options = FrameServer.Options()
    options.holdDeadline = 60_000_000_000
    let scene = Scene()
    let server = FrameServer(
      scene, loop: loop, options: options,
      log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    scene.add(server)
    loop.everyTurn { [scene] in scene.finishTurn() }
    let able = try consumer(server, loop, .init(name: "able", takesFences: true))
    let plain = try consumer(server, loop, .init(name: "plain"))
    let copier = try consumer(server, loop, .init(name: "copier", copyOnly: true))

    let memfd = try MemFD.create("fence-test", size: 4096, seals: [.shrink])
    let ranges = [FileRange(file: try GuestFile(memfd), offset: 0, count: 4096)]
    let dmaBuf = SharedFD(try UdmabufDevice.open().create(ranges))
    let layout = PixelLayout(width: 64, height: 16, stride: 256, fourcc: .xrgb8888)
    let buffer = OfferedBuffer(
      id: 1_000_000, generation: 1, layout: layout, size: 4096, fd: dmaBuf, memory: .guestPages)
    let all = Rect(x: 0, y: 0, width: 64, height: 16)
    let mapping = try Mapping(fd: dmaBuf.raw, offset: 0, count: 4096, writable: false)
    let pixels = try #require(
      PixelSource(layout: layout, spans: [HostSpan(base: mapping.base, count: 4096)]))

    let gpu = try FenceGPU()
    var answers = 0
    let hold = Hold { answers += 1 }
    scene.resize(0, to: (64, 16))
    scene.commit(
      Commit(
        output: 0, crop: all, damage: all, pixels: pixels, buffer: buffer, lock: hold,
        acquire: SharedFD(try gpu.fence.duplicate())))
    scene.publish()
    hold.release()

    let early = try #require(try frames(able, loop).first)
    let fence = try #require(early.acquire)
    #expect(!SyncFile.isSignalled(fence.descriptor))
    #expect(try frames(plain, loop).isEmpty)
    #expect(try frames(copier, loop).isEmpty)
    #expect(scene.counters.copies == 0, "pixels that are not drawn yet were copied")
    #expect(ph_poll_now(dmaBuf.raw, Int16(POLLIN)) == 0, "implicit readers wait")
    try able.done(early)

    try gpu.finish()
    #expect(ph_poll_now(dmaBuf.raw, Int16(POLLIN)) == 1)
    let late = try #require(try frames(plain, loop).first)
    #expect(late.acquire == nil && plain.buffers[late.buffer]?.memory == .dmaBuf)
    let copied = try #require(try frames(copier, loop).first)
    #expect(copier.buffers[copied.buffer]?.memory == .copy)
    #expect(answers == 0, "the plain consumer still reads")
    try plain.done(late)
    _ = try frames(plain, loop)
    #expect(answers == 1)
    withExtendedLifetime(mapping) {}
  }
}
