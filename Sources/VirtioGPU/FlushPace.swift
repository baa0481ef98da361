/// Whether flushes come so steadily that they do the work of the timer between them.
struct FlushPace {
  /// Nanoseconds between steady flushes: a little more than two periods of a 60 Hz display.
  static let longestGap: UInt64 = 35_000_000
  /// So many in a row are steady.
  static let flushesNeeded = 8

  private var last: UInt64 = 0
  private var inTime = 0

  /// Whether the next flush is expected within ``longestGap`` of the last one.
  func isSteady(at now: UInt64) -> Bool {
    inTime >= Self.flushesNeeded && now &- last <= Self.longestGap
  }

  /// Notes a flush at a time in nanoseconds of the monotonic clock.
  mutating func flushed(at now: UInt64) {
    inTime = now &- last <= Self.longestGap ? min(inTime + 1, Self.flushesNeeded) : 0
    last = now
  }
}
