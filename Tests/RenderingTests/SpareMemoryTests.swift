import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import Testing

/// Memory of 3D pictures that consumers were given as it is, and may keep.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct SpareMemoryTests {
  /// Whoever keeps all that he is given has a bounded number of files, however often the output
  /// changes its size: the next pictures are drawn in the same memory.
  @Test func whoKeepsAllPicturesHasFewFiles() throws {
    let rounds = 40
    let pinhole = try PinholeProcess(["--3d", "--render-node", "none", "--scanout", "copy"])
    var choice = GPUDriver.Options()
    choice.features |= Feature.virgl
    choice.patience = 120_000
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)), choice)
    let consumer = try FrameConsumer(path: pinhole.framesSocket)
    try driver.perform(
      .create3D(1, target: 2, format: 2, bind: 0x14_000a, width: 256, height: 64))
    var kept: [SharedFD] = []
    var files: Set<FileFacts.Identity> = []
    for round in 0..<rounds {
      let size = Rect(x: 0, y: 0, width: 64 + UInt32(round % 4) * 16, height: 64)
      try driver.perform(.setScanout(0, resource: 1, size))
      try driver.perform(.flush(1, size))
      var isShown = false
      while !isShown {
        let event = try #require(try consumer.next(timeout: 60_000), "no frame of round \(round)")
        guard case .frame(let frame) = event else { continue }
        let buffer = try #require(consumer.buffers[frame.buffer])
        #expect(buffer.memory == .copy)
        let file = SharedFD(try OwnedFD.duplicate(of: buffer.descriptor))
        if files.insert(try FileFacts(of: file.raw).identity).inserted { kept.append(file) }
        try consumer.done(frame)
        isShown = frame.crop.width == size.width
      }
      // What was shown a moment ago is not drawn into at once.
      usleep(30_000)
    }
    #expect(files.count <= rounds / 2, "\(files.count) files")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    withExtendedLifetime(kept) {}
  }
}
