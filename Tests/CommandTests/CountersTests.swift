import FakeGuest
import Glibc
import Linux
import Monitoring
import Testing

@testable import pinhole

/// What a daemon tells of itself, against what was done to it.
@Suite struct CountersTests {
  private let control: TemporaryDirectory
  private var path: String { control.file("control.sock") }

  init() throws { control = try TemporaryDirectory() }

  private func state() throws -> State { try StatusAnswer(from: path).state }

  /// Asks until the answer is so, and returns the last one.
  private func state(_ isSo: (State) -> Bool) throws -> State {
    let deadline = Clock.now + 20_000_000_000
    while true {
      let now = try state()
      if isSo(now) || Clock.now > deadline { return now }
      usleep(10_000)
    }
  }

  private func start() throws -> PinholeProcess {
    let pinhole = try PinholeProcess(["--control", path, "--scanout", "copy"])
    // It listens there last.
    let deadline = Clock.now + 60_000_000_000
    while !PinholeProcess.isListening(on: [path]), Clock.now < deadline { usleep(1000) }
    return pinhole
  }

  @Test func eachNameHasItsOwnNumber() throws {
    let pinhole = try start()
    var facts = stat()
    #expect(lstat(path, &facts) == 0 && facts.st_mode & 0o777 == 0o600, "the owner's alone")
    let idle = try state()
    #expect(!idle.hasFrontEnd && idle.outputs.allSatisfy { $0.frames == 0 })
    for (name, value) in idle.metrics.map({ ($0.name, $0.value) })
    where name != "pin-limit-bytes" {
      #expect(value == 0, "\(name)")
    }
    let front = try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20))
    let driver = try GPUDriver(front)
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    try frame.show()
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    var leaver: FrameWatcher? = try FrameWatcher(path: pinhole.framesSocket)
    #expect(leaver?.wait(milliseconds: 15_000) { !$0.outputs.isEmpty } == true)
    leaver = nil
    let count = 5
    for number in 0..<count {
      let picture = TestPicture.pages.render(width: 320, height: 200, frame: number)
      frame.draw(picture)
      try frame.flush()
      #expect(watcher.difference(from: picture, milliseconds: 15_000) == nil, "\(pinhole.log)")
    }
    // One transfer more than flushes, and two commands that cannot be.
    try driver.perform(.transferToHost2D(1, frame.bounds, offset: 0))
    for id in [98, 99] as [UInt32] { #expect(try !driver.run(.unref(id)).response.isOK) }
    let bytes = UInt64(320 * 200 * 4)
    let busy = try state {
      $0["connected"] == 1 && $0["done"] == $0["sent"] && $0["qemu-sent-bytes"] ?? 0 >= bytes
    }
    #expect(busy.hasFrontEnd)
    #expect(busy["flushes"] == UInt64(count) && busy["transfers"] == UInt64(count + 1))
    #expect(busy["errors"] == 2 && busy["submits"] == 0 && busy["rendered"] == 0)
    #expect(try #require(busy["frames"]) >= UInt64(count) && busy["direct"] == 0)
    #expect(busy["consumers"] == 2 && busy["connected"] == 1 && busy["refused"] == 0)
    #expect(try #require(busy["sent"]) >= UInt64(count) && busy["done"] == busy["sent"])
    #expect(busy["copies-sent"] == busy["sent"])
    #expect(busy["qemu-display"] == 1 && busy["qemu-sockets"] == 1)
    #expect(try #require(busy["qemu-updates"]) >= 1)
    #expect(try #require(busy["qemu-sent-bytes"]) >= bytes)
    #expect(try #require(busy["copied-bytes"]) >= bytes)
    #expect(try #require(busy["host-bytes"]) >= bytes)
    #expect(busy["pinned-bytes"] == 0 && busy["pins"] == 0 && busy["builds"] == 0)
    let output = try #require(busy.outputs.first)
    #expect(output.width == 320 && output.height == 200 && output.frames >= UInt64(count))
    let consumer = try #require(busy.consumers.first)
    #expect(busy.consumers.count == 1 && consumer.name == "watcher" && consumer.inFlight == 0)
    #expect(consumer.process == UInt64(getpid()) && consumer.frames >= UInt64(count))
    #expect(shutdown(front.channel.socket.raw, CInt(SHUT_RDWR)) == 0)
    let left = try state {
      !$0.hasFrontEnd && $0["host-bytes"] == 0 && $0["qemu-display"] == 0
    }
    #expect(!left.hasFrontEnd && left["host-bytes"] == 0 && left["qemu-display"] == 0)
    #expect(left["qemu-sockets"] == 1 && left["flushes"] == UInt64(count))
    withExtendedLifetime((driver, frame, watcher)) {}
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    #expect(access(path, F_OK) != 0)
  }
}
