import Buffers
import Linux
import Scene

/// Which buffer is looked at next, where there is no time for all of them.
///
/// What is on screen comes first, and among equals what nobody looked at for longest. Each second
/// round it is only that which counts, so that nothing waits for ever.
struct LookOrder {
  /// A buffer as far as its turn depends on it.
  struct Candidate {
    /// When it was looked at last, in nanoseconds of the monotonic clock.
    var lookedAt: UInt64
    var isOnScreen: Bool
  }

  private var favorsScreen = false

  /// The next round begins.
  mutating func begin() { favorsScreen.toggle() }

  /// Whether a buffer has its turn before another.
  func comes(_ one: Candidate, before other: Candidate) -> Bool {
    if favorsScreen, one.isOnScreen != other.isOnScreen { return one.isOnScreen }
    return one.lookedAt < other.lookedAt
  }
}

// Looks at the pages of buffers between the frames that show them: by a timer, and with flushes of
// other pictures. What is published is looked at anyway (present).
extension GPUDevice {
  /// Ticks of the scan timer after which a buffer that nothing shows is let go.
  private static let idleTicks: UInt64 = 200
  /// Nanoseconds without a tick after which flushes put it off no longer.
  private static let longestPause: UInt64 = 500_000_000
  /// Nanoseconds after which no other look begins in this turn of the event loop.
  private static let longestRound: UInt64 = 2_000_000

  /// A frame was looked at just now: where it is the only one on screen, the next look between
  /// flushes is due a whole interval from now. Where flushes come steadily they do without, unless
  /// asked for it.
  func postponeTick() {
    let now = Clock.now
    pace.flushed(at: now)
    guard showsOne, now &- tickedAt < Self.longestPause else { return }
    armTimer(now)
  }

  private var showsOne: Bool {
    exporting.count(where: { $0.scanouts > 0 || $0.isImported }) == 1
  }

  private func armTimer(_ now: UInt64) {
    let interval = lookInterval
    let isLeftOut = pace.isSteady(at: now) && !configuration.looksAlways
    timer?.arm(
      after: isLeftOut ? max(interval, FlushPace.longestGap) : interval, every: interval)
  }

  /// The timer's turn: between flushes, tell consumers that re-read the last frame.
  func tick() {
    let now = Clock.now
    ticks &+= max(1, (now &- tickedAt) / max(configuration.scanInterval, 1))
    tickedAt = now
    dropUnused()
    guard !exporting.isEmpty else { return }
    guard now >= restsUntil else {
      timer?.arm(after: restsUntil &- now, every: lookInterval)
      return
    }
    let before = lookInterval
    lookAround(now) { $0.lookedAt < now }
    if lookInterval != before, !exporting.isEmpty {
      timer?.arm(after: lookInterval, every: lookInterval)
    }
    if showsOne, pace.isSteady(at: now) { armTimer(now) }
  }

  /// Lets go what nobody has on screen any more, neither the guest nor a consumer that is behind.
  private func dropUnused() {
    for resource in exporting {
      if resource.scanouts > 0 || resource.isImported {
        resource.lastShown = ticks
      } else if ticks &- resource.lastShown > Self.idleTicks, !isSeen(resource) {
        revoke(resource, .unused) {}
      }
    }
  }

  /// Looks at what consumers may still read though another picture has come, where nobody did
  /// for longer than a guest that flips steadily takes to come back to it.
  func lookAtOthers(than resource: Resource) {
    guard exporting.count > 1 else { return }
    let now = Clock.now
    lookAround(now) {
      $0 !== resource && $0.lookedAt < now && now &- $0.lookedAt > FlushPace.longestGap
    }
  }

  /// Looks at buffers one after the other for as long as a round may take, and rests then.
  private func lookAround(_ now: UInt64, _ isDue: (Resource) -> Bool) {
    guard now >= restsUntil, mostUrgent(isDue) != nil else { return }
    let began = Clock.processor
    // What has to be shown anew is shown without looks at all the others.
    restsUntil = .max
    looks.begin()
    while let next = mostUrgent(isDue) {
      if verify(next) { showEverywhere(next) }
      if Clock.now &- now >= Self.longestRound { break }
    }
    let cost = Clock.processor &- began
    looked(cost)
    restsUntil = Clock.now &+ cost &* 9
  }

  private func mostUrgent(_ isDue: (Resource) -> Bool) -> Resource? {
    var first: Resource?
    for resource in exporting where resource.exported != nil && isDue(resource) {
      if let found = first, !looks.comes(candidate(resource), before: candidate(found)) { continue }
      first = resource
    }
    return first
  }

  private func candidate(_ resource: Resource) -> LookOrder.Candidate {
    LookOrder.Candidate(
      lookedAt: resource.lookedAt, isOnScreen: resource.scanouts > 0 || resource.isImported)
  }

  /// Looks take a tenth of a processor at most, however scattered the guest has its pages.
  ///
  /// - Parameter cost: processor time of the last round, in nanoseconds.
  func looked(_ cost: UInt64) {
    let least = max(configuration.scanInterval, cost &* 10)
    // Steps, so that a timer is not set anew for each look.
    lookInterval =
      least <= configuration.scanInterval
      ? configuration.scanInterval : (least / 1_000_000 &+ 1) &* 1_000_000
  }
}
