/// How many events one controller may send: so many a second, and as many at once.
struct EventRate {
  /// Events a second.
  let perSecond: Int
  private var credit: Double
  private var last: UInt64

  init(perSecond: Int, now: UInt64) {
    self.perSecond = perSecond
    credit = Double(perSecond)
    last = now
  }

  /// Pays for events that were taken.
  ///
  /// - Parameter now: nanoseconds of a clock that never goes back.
  mutating func take(_ count: Int, now: UInt64) {
    earn(now)
    credit -= Double(count)
  }

  /// Nanoseconds until the next event may be taken, 0 if it may be now.
  mutating func wait(now: UInt64) -> UInt64 {
    earn(now)
    return credit >= 0 ? 0 : UInt64(-credit * 1e9 / Double(max(perSecond, 1))) + 1
  }

  private mutating func earn(_ now: UInt64) {
    credit = min(credit + Double(now &- last) * Double(perSecond) / 1e9, Double(perSecond))
    last = now
  }
}
