import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import PinholeFrames
import Testing

/// How long a consumer that reads the last frame again may see a page that is no longer the
/// guest's: from the discard until BUFFER_REMOVED. docs/discards.md has the figures.
@Suite(
  "From discard to removal", .serialized,
  .enabled(if: bufferProblem == nil, "needs userfaultfd"),
  .enabled(if: getenv("PINHOLE_WINDOW") != nil, "set PINHOLE_WINDOW"))
struct DiscardWindowTests {
  /// What the guest does meanwhile.
  enum Pace: String, CaseIterable {
    case rests = "at rest"
    case flushes = "60 flushes a second"
    case isLookedAt = "60 flushes a second, --looks always"
  }

  @Test(arguments: ["scan", "pagemap", "faults"], Pace.allCases)
  func window(_ detector: String, _ pace: Pace) throws {
    let flushes = pace != .rests
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let scene = try LiveScene([
      "--scanout", "direct", "--hold-deadline", "10000", "--detector", detector,
      "--looks", pace == .isLookedAt ? "always" : "auto",
    ])
    let diary = try Diary(scene.pinhole.framesSocket)
    try diary.read(for: "the picture") { $0.memory == .dmaBuf }
    let file = scene.driver.ram.fd
    var delays: [UInt64] = []
    var nextFlush = Clock.now
    for turn in 0..<400 {
      // Steadily, as a display does, or not at all; then a discard at any moment.
      let until = Clock.now + UInt64.random(in: 30_000_000...60_000_000, using: &random)
      while Clock.now < until {
        if flushes, Clock.now >= nextFlush {
          try scene.flush()
          nextFlush = Clock.now + 16_666_667
        }
        try diary.catchUp()
        usleep(200)
      }
      let page = Int.random(in: 0..<62, using: &random)
      let offset = try scene.offset(ofPage: page)
      let before = diary.removals.count
      let start = Clock.now
      try MemFD.punchHole(file.raw, offset: offset, count: 4096)
      let limit = start + 5_000_000_000
      while diary.removals.count == before {
        if flushes, Clock.now >= nextFlush {
          try scene.flush()
          nextFlush = Clock.now + 16_666_667
        }
        try diary.catchUp()
        try #require(Clock.now < limit, "turn \(turn): nobody was told")
        usleep(50)
      }
      delays.append(Clock.now - start)
    }
    delays.sort()
    func at(_ share: Double) -> Double {
      Double(delays[min(delays.count - 1, Int(Double(delays.count) * share))]) / 1e6
    }
    func ms(_ value: Double) -> String { "\((value * 100).rounded() / 100) ms" }
    print(
      "\(detector), \(pace.rawValue): median \(ms(at(0.5))), "
        + "90 % \(ms(at(0.9))), 99 % \(ms(at(0.99))), longest \(ms(at(1)))")
    try scene.end()
  }
}
