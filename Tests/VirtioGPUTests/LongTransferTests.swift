import FakeGuest
import GPUCommands
import Pixels
import Testing

@testable import VirtioGPU

/// Transfers that take longer than a turn of the loop.
@Suite struct LongTransferTests {
  private static let width = 4096
  private static let height = 2048

  private func bench(_ mode: ScanoutMode = .copy) throws -> (DeviceBench, Framebuffer) {
    let bench = try DeviceBench(mode: mode, ram: GuestRAM(size: 96 << 20))
    // What a display copies of it is not the matter here.
    _ = try bench.inDevice { _, recorder in recorder.isForgetful = true }
    let buffer = try Framebuffer(
      bench.driver, resource: 1, width: Self.width, height: Self.height)
    buffer.draw(Self.stripes(1))
    return (bench, buffer)
  }

  /// Each row of another colour: soon made, however large.
  private static func stripes(_ seed: UInt32) -> Raster {
    var pixels: [UInt32] = []
    pixels.reserveCapacity(width * height)
    for row in 0..<UInt32(height) {
      pixels += repeatElement(row &* 0x101 &+ seed &* 0x1_0001, count: width)
    }
    return Raster(width: width, height: height, pixels: pixels)
  }

  @Test func whatComesBehindSeesAllOfIt() throws {
    let (bench, buffer) = try bench()
    try buffer.show()
    _ = try bench.inDevice { _, recorder in recorder.isForgetful = false }
    try buffer.flush()
    #expect(bench.seen.last?.picture.difference(from: buffer.contents) == nil)
    #expect(try bench.inDevice { device, _ in device.longTransfer == nil })
  }

  /// Between its parts the loop turns, and the guest has no answer before the last.
  @Test(arguments: [false, true]) func othersHaveTheirTurns(_ isSnapshot: Bool) throws {
    let (bench, buffer) = try bench()
    let parts = try bench.inDevice { device, _ -> [Int] in
      guard let resource = device.resources[1] else { return [] }
      var answers = 0
      var before = 0
      let transfer = LongTransfer(
        resource, .init(x: 0, y: 0, width: 4096, height: 2048), offset: 0, isSnapshot: isSnapshot
      ) { answer in
        if answer == .ok { answers += 1 }
      }
      var turns = 1
      while !transfer.go(until: 0), turns < 1000 {
        turns += 1
        before += answers
      }
      return [turns, before, answers]
    }
    #expect(parts == [16, 0, 1])
    withExtendedLifetime(buffer) {}
  }

  /// Pages that the guest wants back are copied in parts, and it waits for all of them.
  @Test(arguments: [false, true]) func aPictureOutlivesItsPages(_ restarts: Bool) throws {
    let (bench, buffer) = try bench(.direct)
    try buffer.show()
    try buffer.flush()
    let drawn = buffer.contents
    var answers: [UInt64] = []
    try bench.driver.send(.detachBacking(1).fenced(7)) { answers.append($0.fence) }
    try bench.driver.send(.getDisplayInfo.fenced(8)) { answers.append($0.fence) }
    try bench.driver.kick()
    if restarts {
      try bench.front.pause()
      try bench.front.resume()
    }
    try bench.driver.drain()
    #expect(answers == [7, 8])
    // What the guest draws there now is another matter.
    buffer.draw(Self.stripes(2))
    _ = try bench.inDevice { _, recorder in
      recorder.isForgetful = false
      recorder.lookAgain()
    }
    #expect(bench.seen.last?.picture.difference(from: drawn) == nil)
    #expect(try bench.inDevice { device, _ in device.longTransfer == nil })
  }

  /// The first copy of a picture that was shown in its own pages until now.
  @Test func aFlushThatHasToCopyAllWaitsForIt() throws {
    let (bench, buffer) = try bench(.auto)
    let other = try Framebuffer(
      bench.driver, resource: 2, width: Self.width, height: Self.height)
    for turn in 0..<6 {
      let next = turn % 2 == 0 ? buffer : other
      try next.show()
      try next.flush()
    }
    #expect(try bench.inDevice { device, _ in device.resources[1]?.imageIsStale } == true)
    buffer.draw(Self.stripes(3))
    try buffer.show()
    // Not flipping any more: the pages are not shown while the guest draws into them.
    var answers: [UInt64] = []
    for fence in UInt64(1)...6 {
      for command in buffer.flushCommands(fence: fence) {
        try bench.driver.send(command) { if $0.isFenced { answers.append($0.fence) } }
      }
    }
    try bench.driver.drain()
    #expect(answers == Array(1...6))
    _ = try bench.inDevice { _, recorder in recorder.isForgetful = false }
    try buffer.flush()
    #expect(bench.seen.last?.picture.difference(from: buffer.contents) == nil)
  }

  @Test func aQueueThatStopsEndsItsTransfer() throws {
    let (bench, buffer) = try bench()
    for _ in 0..<4 {
      for command in buffer.flushCommands() { try bench.driver.send(command) }
    }
    try bench.driver.kick()
    try bench.driver.restart()
    #expect(try bench.inDevice { device, _ in device.longTransfer == nil })
    try bench.driver.perform(.getDisplayInfo)
  }

  /// No driver does so, and each request is answered all the same.
  @Test func eachQueueMayHaveOne() throws {
    let (bench, buffer) = try bench()
    try buffer.show()
    var answered = 0
    for round in 0..<6 {
      var command = GPUCommand.transferToHost2D(1, buffer.bounds, offset: 0)
      if round % 2 == 1 { command.queue = .cursor }
      try bench.driver.send(command) { if $0.response.isOK { answered += 1 } }
    }
    try bench.driver.drain()
    #expect(answered == 6)
    #expect(try bench.inDevice { device, _ in device.longTransfer == nil })
  }
}
