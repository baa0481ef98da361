import FakeGuest
import Glibc
import Linux
import Testing

/// Front-ends and consumers that come and go, many times over.
@Suite struct ConnectionLeakTests {
  private static let rounds = 1000

  /// Waits until a number that falls has reached its floor.
  private func settled(_ floor: Int, _ number: () -> Int) -> Int {
    let deadline = Clock.now + 10_000_000_000
    while number() > floor, Clock.now < deadline { usleep(2000) }
    return number()
  }

  private func boot(_ pinhole: PinholeProcess, _ round: Int) throws {
    let ram = try GuestRAM(size: 8 << 20)
    let driver = try GPUDriver(VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let kind: Framebuffer.Kind = round % 2 == 0 ? .twoD : .blob
    let frame = try Framebuffer(driver, resource: 1, width: 64, height: 64, kind: kind)
    try frame.show()
    try frame.flush(fence: round % 3 == 0 ? 1 : nil)
    switch round % 4 {
    case 0: try frame.remove()
    case 1: try driver.restart()
    case 2: for command in frame.flushCommands(fence: 2) { try driver.send(command) }
    default: break
    }
    try driver.kick()
  }

  @Test func connectionsLeaveNothingBehind() throws {
    let pinhole = try PinholeProcess()
    for round in 0..<8 { try boot(pinhole, round) }
    usleep(100_000)
    let descriptors = pinhole.descriptorCount
    let mappings = pinhole.mappings
    for round in 0..<Self.rounds {
      if round % 50 == 0 {
        let consumer = try FrameWatcher(path: pinhole.framesSocket)
        try boot(pinhole, round)
        _ = consumer
      } else {
        try boot(pinhole, round)
      }
    }
    // Memory that a consumer had is kept for the next picture (CopyMemory), as much as was in use
    // at a time, which is six pictures at most, as copies and for QEMU; twenty consumers came.
    let kept = 8
    #expect(settled(descriptors + kept) { pinhole.descriptorCount } <= descriptors + kept)
    #expect(settled(mappings.files + kept) { pinhole.mappings.files } <= mappings.files + kept)
    // The heap may have grown by a few areas, not by some for each connection.
    #expect(pinhole.mappings.all < mappings.all + 50)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
