import FakeGuest
import Linux
import Pixels
import Testing

/// The driver against QEMU's own virtio-gpu: proof that it speaks what real devices understand.
@Suite(.serialized, .enabled(if: (QEMUProcess.majorVersion ?? 0) >= 10, "needs QEMU 10"))
struct QEMUTests {
  private func start(_ device: String) throws -> QTestPCI {
    var options = QEMUProcess.Options()
    options.devices = [device]
    options.megabytes = 64
    return try QTestPCI(QEMUProcess(options))
  }

  @Test func aScreendumpIsThePictureThatWasDrawn() throws {
    let pci = try start("virtio-gpu-pci")
    let driver = try GPUDriver(pci)
    #expect(driver.features & Feature.version1 != 0)
    #expect(try driver.displayInfo()[0].enabled)
    #expect(try driver.edid().prefix(8) == [0, 255, 255, 255, 255, 255, 255, 0])
    let frame = try Framebuffer(
      driver, resource: 1, width: 640, height: 480, placement: .scattered(seed: 7))
    for (number, kind) in TestPicture.allCases.enumerated() {
      let picture = kind.render(width: 640, height: 480, frame: number)
      frame.draw(picture)
      if number == 0 { try frame.show() }
      try frame.flush()
      #expect(try pci.qemu.screendump().difference(from: picture) == nil)
    }
  }

  @Test func errorsHaveTheirOwnCodes() throws {
    let driver = try GPUDriver(start("virtio-gpu-pci"))
    #expect(try driver.run(.unref(99)).response == .invalidResource)
    #expect(
      try driver.run(.create2D(0, .b8g8r8x8, width: 1, height: 1)).response == .invalidResource)
    #expect(
      try driver.run(.setScanout(17, resource: 1, Rect(width: 1, height: 1))).response
        == .invalidScanout)
    let fenced = try driver.run(GPUCommand.unref(99).fenced(0x1234_5678_9abc))
    #expect(fenced.isFenced)
    #expect(fenced.fence == 0x1234_5678_9abc)
  }

  @Test func manyCommandsInFlightAllComeBack() throws {
    let driver = try GPUDriver(start("virtio-gpu-pci"))
    let frame = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    try frame.show()
    var answers: [GPUResponse] = []
    for i in 0..<200 {
      for command in frame.flushCommands(fence: UInt64(i)) {
        try driver.send(command.cut(into: 1 + i % 3)) { answers.append($0.response) }
      }
    }
    try driver.drain()
    #expect(answers.count == 400)
    #expect(answers.allSatisfy { $0 == .ok })
  }

  @Test func aRestartedDeviceHasForgottenItsResources() throws {
    let driver = try GPUDriver(start("virtio-gpu-pci"))
    _ = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    try driver.restart()
    #expect(try driver.run(.unref(1)).response == .invalidResource)
  }
}
