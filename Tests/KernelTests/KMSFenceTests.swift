import Buffers
import FakeGuest
import Fences
import FrameServer
import Glibc
import GuestMemory
import KMS
import Linux
import Logging
import Pixels
import Scene
import Testing
import VirtioGPU

/// Cirrus in the VM.
private enum Cirrus {
  /// A display that scans dma-bufs of guest memory.
  static var card: String? {
    for number in 0..<8 {
      var target = [CChar](repeating: 0, count: 256)
      let link = "/sys/class/drm/card\(number)/device/driver"
      let count = readlink(link, &target, target.count)
      let text = target.prefix(max(count, 0)).map { UInt8(bitPattern: $0) }
      guard String(decoding: text, as: UTF8.self).contains("cirrus") else { continue }
      return "/dev/dri/card\(number)"
    }
    return nil
  }
}

/// A display of the host that scans guest pages: its flips wait for the frame's fence, and the
/// frame is released with the display's own.
@Suite(
  .serialized,
  .enabled(
    if: access("/dev/udmabuf", R_OK | W_OK) == 0 && Vgem.isHere && Cirrus.card != nil,
    "needs /dev/udmabuf, vgem, and cirrus as a display"))
struct KMSFenceTests {
  private static let size = (width: UInt32(640), height: UInt32(480))
  private static let bytes = 640 * 480 * 4

  private func dmaBuf() throws -> SharedFD {
    let memfd = try MemFD.create("kms-test", size: Self.bytes, seals: [.shrink])
    let range = FileRange(file: try GuestFile(memfd), offset: 0, count: UInt64(Self.bytes))
    return SharedFD(try UdmabufDevice.open().create([range]))
  }

  @Test func aFlipWaitsForItsFence() throws {
    let card = try #require(Cirrus.card)
    let screen = try KMSScreen(path: card, connector: nil, size: Self.size, mustMatch: true)
    defer { screen.restore() }
    let memory = [try dmaBuf(), try dmaBuf()]
    let framebuffers = try memory.map {
      try ImportedFramebuffer(
        $0.raw, width: 640, height: 480, stride: 2560, offset: 0, fourcc: 0x3432_5258, on: screen)
    }
    try screen.show(framebuffers[0].id, waits: true)
    let gpu = try FenceGPU()
    let shown = SharedFD(
      OwnedFD(
        adopting: try screen.show(framebuffers[1].id, acquire: gpu.fence.raw, waits: false)))
    var poll = pollfd(fd: shown.raw, events: Int16(POLLIN), revents: 0)
    #expect(Glibc.poll(&poll, 1, 300) == 0, "it is on screen before it is drawn")
    try gpu.finish()
    #expect(Glibc.poll(&poll, 1, 10_000) == 1)
    var event = pollfd(fd: screen.fd.raw, events: Int16(POLLIN), revents: 0)
    #expect(Glibc.poll(&event, 1, 10_000) == 1)
    #expect(screen.takeEvents())
    withExtendedLifetime((memory, framebuffers, shown)) {}
  }

  /// Frames of a device for the server in this thread.
  private final class Bench {
    let loop: EventLoop
    let scene = Scene()
    let server: FrameServer
    private(set) var answers = 0
    private var id: UInt32 = 0

    init() throws {
      loop = try EventLoop()
      var options = FrameServer.Options()
      options.holdDeadline = 60_000_000_000
      options.closeDeadline = 60_000_000_000
      server = FrameServer(
        scene, loop: loop, options: options,
        log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
      scene.add(server)
      loop.everyTurn { [scene] in scene.finishTurn() }
    }

    func show(_ memory: SharedFD, acquire: SharedFD? = nil) throws {
      let all = Rect(x: 0, y: 0, width: 640, height: 480)
      let layout = PixelLayout(width: 640, height: 480, stride: 2560, fourcc: .xrgb8888)
      let bytes = KMSFenceTests.bytes
      let mapping = try Mapping(fd: memory.raw, offset: 0, count: bytes, writable: false)
      let pixels = try #require(
        PixelSource(layout: layout, spans: [HostSpan(base: mapping.base, count: bytes)]))
      id += 1
      let buffer = OfferedBuffer(
        id: id, generation: 1, layout: layout, size: UInt64(bytes), fd: memory,
        memory: .guestPages)
      let hold = Hold { [self] in answers += 1 }
      scene.commit(
        Commit(
          output: 0, crop: all, damage: all, pixels: pixels, buffer: buffer,
          lock: hold, acquire: acquire))
      scene.publish()
      hold.release()
      withExtendedLifetime(mapping) {}
    }

    func turn(until what: String, _ condition: () -> Bool) throws {
      for _ in 0..<4000 {
        if condition() { return }
        try loop.turn(timeout: 5)
      }
      Issue.record("waited in vain for \(what)")
    }
  }

  @Test func theDisplaysFenceComesBackAndIsWaitedFor() throws {
    let card = try #require(Cirrus.card)
    let folder = try TemporaryDirectory()
    let bench = try Bench()
    try bench.server.listen(folder.file("frames"))
    let out = SharedFD(try OwnedFD.open(folder.file("log"), O_WRONLY | O_CREAT | O_APPEND))
    let display = try ChildProcess(
      [
        FakeGuest.Puncher.defaultProgram, "kms", "--frames-socket", folder.file("frames"),
        "--device", card, "--mode", "640x480",
      ], fds: [(out.raw, 1), (out.raw, 2)])
    var log: String {
      WholeFile.text(folder.file("log")) ?? ""
    }
    try bench.turn(until: "the display") { bench.server.consumers == 1 || display.status != nil }
    bench.scene.resize(0, to: Self.size)
    let memory = [try dmaBuf(), try dmaBuf(), try dmaBuf()]
    try bench.show(memory[0])
    try bench.turn(until: "the first frame") { bench.answers == 1 || display.status != nil }
    #expect(bench.server.counters.fencesAwaited == 0)

    let gpu = try FenceGPU()
    try bench.show(memory[1], acquire: SharedFD(try gpu.fence.duplicate()))
    try bench.turn(until: "FRAME_DONE with the flip's fence") {
      bench.server.counters.framesDone == 2 || display.status != nil
    }
    #expect(bench.server.counters.fencesAwaited == 1, "\(log)")
    for _ in 0..<100 { try bench.loop.turn(timeout: 2) }
    #expect(bench.answers == 1, "the guest goes on while the display waits for its picture")
    try gpu.finish()
    try bench.turn(until: "the flip") { bench.answers == 2 || display.status != nil }

    try bench.show(memory[2])
    try bench.turn(until: "the last flip") { bench.answers == 3 || display.status != nil }
    #expect(bench.server.counters.framesLate == 0)
    display.signal(SIGTERM)
    #expect(display.waitForEnd(milliseconds: 20_000) == 0, "\(log)")
    #expect(log.contains("3 frames scanned, 0 copied"), "\(log)")
    withExtendedLifetime((memory, out)) {}
  }
}
