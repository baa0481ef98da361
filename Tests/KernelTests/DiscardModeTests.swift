import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import Testing

/// When pages are pinned, and what `--on-discard report` does instead of mending.
@Suite(.serialized, .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct DiscardModeTests {
  private struct Scene {
    let pinhole: any RunningPinhole
    let driver: GPUDriver
    let buffer: Framebuffer
    let watcher: NewestFrame

    func counters() throws -> String {
      let before = pinhole.log.split(separator: "\n").count { $0.contains("counters:") }
      pinhole.signal(SIGUSR1)
      while pinhole.log.split(separator: "\n").count(where: { $0.contains("counters:") }) == before
      {
        usleep(1000)
      }
      return String(pinhole.log.split(separator: "\n").last { $0.contains("counters:") } ?? "")
    }
  }

  private func scene(_ options: [String] = []) throws -> Scene {
    let pinhole = try startPinhole(["--hold-deadline", "5000", "--log-level", "debug"] + options)
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: try GuestRAM(size: 16 << 20)))
    let buffer = try Framebuffer(
      driver, resource: 1, width: 320, height: 240, kind: .blob, placement: .scattered(seed: 3))
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    return Scene(pinhole: pinhole, driver: driver, buffer: buffer, watcher: watcher)
  }

  @Test func pagesArePinnedWhenThePictureIsSetAndLetGoWhenNothingShowsIt() throws {
    let scene = try scene()
    #expect(try scene.counters().contains(" pins 0,"), "not when it is made")
    try scene.buffer.show()
    #expect(try scene.counters().contains(" pins 1,"), "before the first flush")
    for fence in [1, 2] as [UInt64] {
      for command in scene.buffer.flushCommands(fence: fence) { try scene.driver.send(command) }
      try scene.watcher.follow(scene.driver)
    }
    #expect(try scene.counters().contains(" pins 1,"))
    try scene.driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    let deadline = 200
    for _ in 0..<deadline where try !scene.counters().contains(" unpins 1,") {
      try scene.watcher.take(milliseconds: 50)
    }
    let end = try scene.counters()
    #expect(end.contains(" unpins 1,") && end.contains("pinned-bytes 0"), "\(end)")
    #expect(scene.watcher.removed.last == .unused)
    #expect(scene.pinhole.terminate() == 0)
  }

  @Test func reportMendsNothingAndNamesThePages() throws {
    let scene = try scene(["--on-discard", "report"])
    let ram = scene.driver.ram
    scene.buffer.draw(TestPicture.pages.render(width: 320, height: 240, frame: 0))
    try scene.buffer.show()
    for command in scene.buffer.flushCommands(fence: 1) { try scene.driver.send(command) }
    try scene.watcher.follow(scene.driver)
    let drawn = try #require(try scene.watcher.bytes())
    let offset = try #require(ram.fileOffset(ofGuest: scene.buffer.pages.addresses[7]))
    try FakeGuest.Puncher(ram.fd.raw).discard(offset: offset, count: 4096, .byte(9))
    for fence in [2, 3] as [UInt64] {
      for command in scene.buffer.flushCommands(fence: fence) { try scene.driver.send(command) }
      try scene.watcher.follow(scene.driver)
    }
    #expect(try scene.watcher.bytes() == drawn, "the old page is still shown")
    #expect(scene.watcher.generations == [1])
    let counters = try scene.counters()
    #expect(counters.contains(" reports 1,") && counters.contains(" discarded-pages 1,"))
    #expect(counters.contains(" rebuilds 0,"))
    let log = scene.pinhole.log
    let name = try #require(scene.watcher.newest).buffer
    #expect(log.contains("on output 0: 1 pages of buffer \(name) were discarded"), "\(log)")
    #expect(log.contains("file offsets \(offset)+4096"), "\(log)")
    #expect(log.contains("guest memory: 16 MiB in a memfd"), "\(log)")
    #expect(scene.pinhole.terminate() == 0)
  }
}
