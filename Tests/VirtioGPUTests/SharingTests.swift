import FakeGuest
import Linux
import Testing
import VhostUser

@testable import VirtioGPU

/// RESOURCE_ASSIGN_UUID, and what the front-end is told of it.
@Suite struct SharingTests {
  /// The next message of the back-end on its own channel: request, flags, payload.
  private func told(_ bench: DeviceBench) throws -> (request: UInt32, payload: [UInt8]) {
    let channel = try #require(bench.front.backendRequests)
    var bytes = [UInt8](repeating: 0, count: 28)
    var fds: [CInt] = []
    let count = try bytes.withUnsafeMutableBufferPointer { p throws(Errno) in
      try UnixSocket.receive(channel.raw, into: UnsafeMutableRawBufferPointer(p), fds: &fds).count
    }
    #expect(count == 28 && fds.isEmpty)
    #expect(WireBytes.read(bytes, 4, as: UInt32.self) == 1)
    #expect(WireBytes.read(bytes, 8, as: UInt32.self) == 16)
    return (WireBytes.read(bytes, 0), Array(bytes[12...]))
  }

  @Test func aResourceGetsOneNameForLife() throws {
    let bench = try DeviceBench()
    #expect(bench.driver.features & 1 << 2 != 0)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let answer = try bench.driver.run(.assignUUID(1))
    #expect(answer.response == .okUUID && answer.length == 40)
    let name = Array(answer.bytes[24..<40])
    #expect(name[6] >> 4 == 4 && name[8] >> 6 == 2)
    #expect(Array(try bench.driver.run(.assignUUID(1)).bytes[24..<40]) == name)
    #expect(try told(bench) == (6, name))
    try buffer.remove()
    #expect(try told(bench) == (7, name))
    #expect(try bench.driver.run(.assignUUID(1)).response == .invalidResource)
  }

  @Test func aResetTakesTheNamesBack() throws {
    let bench = try DeviceBench()
    try bench.driver.perform(.create2D(1, .b8g8r8x8, width: 8, height: 8))
    let name = Array(try bench.driver.run(.assignUUID(1)).bytes[24..<40])
    try bench.driver.restart()
    #expect(try told(bench) == (6, name))
    #expect(try told(bench) == (7, name))
  }

  @Test func withoutADmaBufThereIsNothingToHandOut() throws {
    let bench = try DeviceBench()
    _ = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    let name = Array(try bench.driver.run(.assignUUID(1)).bytes[24..<40])
    #expect(try bench.front.channel.ask(.getSharedObject, name) == [])
    #expect(try bench.front.channel.ask(.getSharedObject, []) == [])
    #expect(try bench.front.channel.ask(.getSharedObject, [UInt8](repeating: 9, count: 16)) == [])
    try bench.driver.perform(.getDisplayInfo)
  }

  @Test func aFrontEndThatDoesNotReadIsNotWaitedFor() throws {
    let bench = try DeviceBench()
    for _ in 0..<2000 {
      try bench.driver.send(.create2D(1, .b8g8r8x8, width: 1, height: 1))
      try bench.driver.send(.assignUUID(1))
      try bench.driver.send(.unref(1))
    }
    try bench.driver.drain()
    try bench.driver.perform(.getDisplayInfo)
  }
}
