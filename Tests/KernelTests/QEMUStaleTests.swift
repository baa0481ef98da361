import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// What a viewer sees when pages of a shown picture are discarded and drawn anew: with QEMU's own
/// GPU, which makes its udmabuf once, and with Pinhole.
@Suite(
  "A discard under the picture on screen", .serialized,
  .enabled(if: udmabufProblem == nil, "needs /dev/udmabuf and userfaultfd"),
  .enabled(if: (QEMUProcess.majorVersion ?? 0) >= 10, "needs QEMU 10"))
struct QEMUStaleTests {
  private static let width = 320
  private static let height = 200

  private func flat(_ colour: UInt32) -> Raster {
    Raster(
      width: Self.width, height: Self.height,
      pixels: [UInt32](repeating: colour, count: Self.width * Self.height))
  }

  private func blob(
    _ driver: GPUDriver, _ placement: GuestRAM.Placement
  ) throws -> Framebuffer {
    try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, kind: .blob,
      placement: placement)
  }

  private func discard(_ frame: Framebuffer, of ram: GuestRAM) throws {
    let balloon = try FakeGuest.Puncher(ram.fd.raw)
    for run in frame.pages.entries() {
      let offset = try #require(ram.fileOffset(ofGuest: run.address))
      try balloon.discard(offset: offset, count: UInt64(run.length))
    }
  }

  @Test("QEMU's virtio-gpu-pci,blob=true shows the old picture")
  func inQEMU() throws {
    var options = QEMUProcess.Options()
    options.devices = ["virtio-gpu-pci,blob=true"]
    let pci = try QTestPCI(QEMUProcess(options))
    let driver = try GPUDriver(pci)
    try #require(driver.features & Feature.resourceBlob != 0)
    let frame = try blob(driver, .scattered(seed: 5))
    func shows(_ colour: UInt32) throws -> String? {
      try pci.qemu.screendump().difference(from: flat(colour))
    }

    frame.draw(flat(0x0000ff))
    try frame.show()
    try frame.flush()
    #expect(try shows(0x0000ff) == nil, "a new buffer is right")
    frame.draw(flat(0x00ff00))
    try frame.flush()
    #expect(try shows(0x00ff00) == nil, "drawn in place, it is right")

    try discard(frame, of: pci.ram)
    frame.draw(flat(0xff0000))
    try frame.flush()
    #expect(frame.contents == flat(0xff0000))
    #expect(try shows(0xff0000) != nil, "after a discard QEMU is expected to be stale")
    #expect(try shows(0x00ff00) == nil, "it shows the picture from before")
    try frame.show()
    try frame.flush()
    #expect(try shows(0x00ff00) == nil, "setting the scanout again does not help")

    let fresh = GPUCommand.createBlob(
      2, size: UInt64(frame.pages.byteCount), frame.pages.entries())
    try driver.perform(fresh)
    try driver.perform(
      .setScanoutBlob(
        0, resource: 2, frame.bounds, format: .b8g8r8x8, width: UInt32(Self.width),
        height: UInt32(Self.height), stride: UInt32(frame.stride)))
    try driver.perform(.flush(2, frame.bounds))
    #expect(try shows(0xff0000) == nil, "a new resource over the same pages is right")
  }

  @Test("Pinhole shows the new one", arguments: ["scan", "faults"])
  func blobsInPinhole(_ detector: String) throws {
    let pinhole = try PinholeProcess(["--detector", detector])
    let ram = try GuestRAM(size: 64 << 20, regions: GuestRAM.pcRegions(size: 64 << 20))
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram)
    let driver = try GPUDriver(frontEnd)
    try #require(driver.features & Feature.resourceBlob != 0)
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    // One run, which is gone at one blow: a balloon that takes page after page may outrun a
    // rebuild, and then a copy is shown.
    let frame = try blob(driver, .contiguous())

    frame.draw(flat(0x0000ff))
    try frame.show()
    try frame.flush(fence: 1)
    #expect(consumer.difference(from: flat(0x0000ff)) == nil)
    frame.draw(flat(0x00ff00))
    try frame.flush(fence: 2)
    #expect(consumer.difference(from: flat(0x00ff00)) == nil)
    #expect(consumer.now.last[0]?.memory == .dmaBuf, "\(pinhole.log)")

    try discard(frame, of: ram)
    frame.draw(flat(0xff0000))
    try frame.flush(fence: 3)
    #expect(consumer.difference(from: flat(0xff0000)) == nil)
    // A slow machine's consumer may have been given one copy, for passing its deadline.
    for fence in 4..<24 as Range<UInt64> where consumer.now.last[0]?.memory != .dmaBuf {
      try frame.flush(fence: fence)
      #expect(consumer.difference(from: flat(0xff0000)) == nil)
    }
    #expect(consumer.now.last[0]?.memory == .dmaBuf)
    #expect(consumer.now.removals.contains(.discarded))
    #expect(frontEnd.display?.now.violations == [])
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  @Test("Pinhole behind QEMU shows the new one", arguments: ["direct", "copy"])
  func behindQEMU(_ mode: String) throws {
    let pinhole = try PinholeProcess(["--scanout", mode])
    var options = QEMUProcess.Options()
    options.devices = ["vhost-user-gpu-pci,chardev=gpu"]
    options.arguments = ["-chardev", "socket,id=gpu,path=\(pinhole.socket)"]
    let pci = try QTestPCI(QEMUProcess(options))
    let driver = try GPUDriver(pci)
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    let frame = try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, placement: .scattered(seed: 6))
    func check(_ colour: UInt32, _ comment: Comment) throws {
      #expect(consumer.difference(from: flat(colour)) == nil, comment)
      var difference: String?
      for _ in 0..<100 {
        difference = try pci.qemu.screendump().difference(from: flat(colour))
        if difference == nil { break }
        usleep(20_000)
      }
      #expect(difference == nil, comment)
    }
    frame.draw(flat(0x0000ff))
    try frame.show()
    try frame.flush()
    try check(0x0000ff, "a new buffer")
    let memory: ReceivedBuffer.Memory = mode == "direct" ? .dmaBuf : .copy
    #expect(consumer.now.last[0]?.memory == memory, "\(pinhole.log)")
    frame.draw(flat(0x00ff00))
    try frame.flush()
    try check(0x00ff00, "drawn in place")
    try discard(frame, of: pci.ram)
    frame.draw(flat(0xff0000))
    try frame.flush()
    try check(0xff0000, "discarded and drawn")
    try frame.show()
    try frame.flush()
    try check(0xff0000, "with the scanout set again")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
