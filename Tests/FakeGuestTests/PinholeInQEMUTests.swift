import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// A real QEMU in front of `pinhole serve`; its guest is played through qtest.
@Suite(.serialized, .enabled(if: (QEMUProcess.majorVersion ?? 0) >= 10, "needs QEMU 10"))
struct PinholeInQEMUTests {
  private func start(_ device: String, _ pinhole: PinholeProcess) throws -> QTestPCI {
    var options = QEMUProcess.Options()
    options.devices = ["\(device),chardev=gpu,id=card"]
    options.arguments = ["-chardev", "socket,id=gpu,path=\(pinhole.socket)"]
    options.megabytes = 64
    return try QTestPCI(QEMUProcess(options))
  }

  /// QEMU's display gets its pixels on a socket of its own: wait until they have come.
  private func screen(_ qemu: QEMUProcess, shows picture: Raster) throws -> String? {
    var difference: String?
    for _ in 0..<50 {
      difference = try qemu.screendump().difference(from: picture)
      if difference == nil { return nil }
      usleep(20_000)
    }
    return difference
  }

  @Test(arguments: ["vhost-user-gpu-pci", "vhost-user-vga"])
  func screendumpsShowWhatTheGuestDrew(_ device: String) throws {
    let pinhole = try PinholeProcess()
    let pci = try start(device, pinhole)
    let driver = try GPUDriver(pci)
    let modes = try driver.displayInfo()
    #expect(modes[0].enabled)
    #expect(modes[0].rect.width > 0)
    #expect(try driver.edid().prefix(8) == [0, 255, 255, 255, 255, 255, 255, 0])
    let frame = try Framebuffer(
      driver, resource: 1, width: 640, height: 480, placement: .scattered(seed: 3))
    for number in 0..<4 {
      let picture = TestPicture.allCases[number].render(width: 640, height: 480, frame: number)
      frame.draw(picture)
      if number == 0 { try frame.show() }
      try frame.flush()
      #expect(try screen(pci.qemu, shows: picture) == nil)
    }
    try driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    try frame.remove()
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  @Test func thePictureSurvivesStopAndContinue() throws {
    let pinhole = try PinholeProcess()
    let pci = try start("vhost-user-gpu-pci", pinhole)
    let driver = try GPUDriver(pci)
    let frame = try Framebuffer(driver, resource: 1, width: 640, height: 480)
    let picture = TestPicture.smpte.render(width: 640, height: 480)
    frame.draw(picture)
    try frame.show()
    try frame.flush()
    #expect(try screen(pci.qemu, shows: picture) == nil)
    for round in 1...3 {
      try pci.qemu.monitor.run("stop")
      try pci.qemu.monitor.run("cont")
      #expect(try screen(pci.qemu, shows: picture) == nil)
      let next = TestPicture.checker.render(width: 640, height: 480, frame: round)
      frame.draw(next)
      try frame.flush()
      #expect(try screen(pci.qemu, shows: next) == nil)
      frame.draw(picture)
      try frame.flush()
      #expect(try screen(pci.qemu, shows: picture) == nil)
    }
  }

  @Test func aResetForgetsResourcesAndTheNextGuestDraws() throws {
    let pinhole = try PinholeProcess()
    let pci = try start("vhost-user-gpu-pci", pinhole)
    let driver = try GPUDriver(pci)
    for round in 0..<3 {
      let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
      let picture = TestPicture.gradient.render(width: 320, height: 200, frame: round)
      frame.draw(picture)
      try frame.show()
      try frame.flush()
      #expect(try screen(pci.qemu, shows: picture) == nil)
      try driver.restart()
      #expect(try driver.run(.unref(1)).response == .invalidResource)
    }
  }

  @Test func aSecondQEMUIsServedAfterTheFirst() throws {
    let pinhole = try PinholeProcess()
    for round in 0..<3 {
      let pci = try start("vhost-user-gpu-pci", pinhole)
      let driver = try GPUDriver(pci)
      let frame = try Framebuffer(driver, resource: 1, width: 640, height: 480)
      let picture = TestPicture.pages.render(width: 640, height: 480, frame: round)
      frame.draw(picture)
      try frame.show()
      try frame.flush()
      #expect(try screen(pci.qemu, shows: picture) == nil)
    }
    #expect(pinhole.child.status == nil, "\(pinhole.log)")
  }
}
