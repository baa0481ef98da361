import Command
import FakeGuest
import Testing

@Suite struct BudgetOptionTests {
  @Test(arguments: [
    ("0", 0), ("4096", 4096), ("512K", 512 << 10), ("64m", 64 << 20), ("2G", 2 << 30),
  ])
  func byteCounts(_ text: String, _ bytes: UInt64) {
    #expect(ByteCount(argument: text)?.bytes == bytes)
  }

  @Test(arguments: [
    "", "M", "-1", "+1", "1T", "1.5G", "99999999999999999999", "17179869184G", "1 M",
  ])
  func whatIsNoByteCount(_ text: String) {
    #expect(ByteCount(argument: text) == nil)
  }

  @Test func linesOverTheLimitAreCountedAndToldOnce() {
    var limit = LineLimit(perSecond: 3)
    let second: UInt64 = 1_000_000_000
    let first = (0..<10).map { _ in limit.admit(at: 5 * second) }
    #expect(first.map(\.isAllowed) == [true, true, true] + Array(repeating: false, count: 7))
    #expect(first.allSatisfy { $0.suppressed == 0 })
    let next = limit.admit(at: 6 * second)
    #expect(next == (true, 7))
    #expect(limit.admit(at: 6 * second) == (true, 0))
    var none = LineLimit(perSecond: 0)
    #expect((0..<1000).allSatisfy { _ in none.admit(at: second).isAllowed })
  }

  /// What an operator asks for is written, whatever a guest has provoked before.
  @Test func thereIsRoomForWhatIsAskedFor() {
    var limit = LineLimit(perSecond: 3)
    let now: UInt64 = 5_000_000_000
    for _ in 0..<10 { _ = limit.admit(at: now) }
    #expect(limit.start(at: now) == 7)
    #expect((0..<4).map { _ in limit.admit(at: now).isAllowed } == [true, true, true, false])
    #expect(limit.start(at: now) == 1, "the others were told of")
  }

  @Test func aGuestCannotFillTheLog() throws {
    let pinhole = try PinholeProcess([
      "--max-log-lines", "5", "--max-resources", "2", "--log-level", "trace",
    ])
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    for _ in 0..<200 {
      for id in 1...3 as ClosedRange<UInt32> {
        try driver.send(.create2D(id, .b8g8r8x8, width: 1, height: 1))
      }
      for id in 1...2 as ClosedRange<UInt32> { try driver.send(.unref(id)) }
      try driver.drain()
      // What is logged for each budget is logged once until a reset.
      try driver.restart()
    }
    #expect(pinhole.terminate() == 0)
    let log = pinhole.log
    #expect(log.contains("the guest is out of resources (--max-resources)"))
    #expect(log.contains("more lines suppressed"))
  }
}
