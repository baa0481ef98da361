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
    let (few, early) = flushed(FlushPace.flushesNeeded, every: period)
    #expect(!few.isSteady(at: early))
    let (more, later) = flushed(FlushPace.flushesNeeded + 1, every: period)
    #expect(more.isSteady(at: later))
  }

  @Test func twentyFlipsASecondAreNot() {
    let (pace, now) = flushed(1000, every: 50_000_000)
    #expect(!pace.isSteady(at: now - 50_000_000))
  }

  @Test func onePauseEndsIt() {
    var (pace, now) = flushed(1000, every: period)
    #expect(pace.isSteady(at: now))
    now += FlushPace.longestGap
    #expect(!pace.isSteady(at: now))
    pace.flushed(at: now)
    #expect(!pace.isSteady(at: now))
  }
}
