import Testing

@testable import VirtioGPU

@Suite struct FlushPaceTests {
  private let period: UInt64 = 16_666_667

  private func flushed(_ count: Int, every gap: UInt64) -> (FlushPace, UInt64) {
    var pace = FlushPace()
    var now: UInt64 = 1_000_000_000_000
    for _ in 0..<count {
      pace.flushed(at: now)
      now += gap
    }
    return (pace, now)
  }

  @Test func sixtyFlipsASecondAreSteady() {
    #expect(!flushed(FlushPace.flushesNeeded, every: period).0.isSteady)
    #expect(flushed(FlushPace.flushesNeeded + 1, every: period).0.isSteady)
  }

  @Test func twentyFlipsASecondAreNot() {
    #expect(!flushed(1000, every: 50_000_000).0.isSteady)
  }

  @Test func onePauseEndsIt() {
    var (pace, now) = flushed(1000, every: period)
    #expect(pace.isSteady)
    now += FlushPace.longestGap
    pace.flushed(at: now)
    #expect(!pace.isSteady)
  }
}
