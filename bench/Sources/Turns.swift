import FakeGuest

/// Contestants that take turns, so that what else the machine does falls on all of them.
struct Turns {
  /// Turns that count; one before them warms up.
  let rounds: Int
  /// Frames of each turn.
  let frames: Int

  /// Has each do its turns, the order shifted by one in each round.
  ///
  /// - Parameter turn: gets a contestant's index and whether its turn counts.
  func take(
    _ name: String, _ contestants: Range<Int>, _ turn: (Int, Bool) throws(GuestError) -> Void
  ) throws(GuestError) {
    defer { Progress.end() }
    for round in 0...rounds {
      Progress.show("\(name): turn \(round) of \(rounds)")
      for step in contestants { try turn((step + round) % contestants.count, round > 0) }
    }
  }

  /// Nanoseconds of processor time a frame, the median of the turns; nil for who is missing.
  func medians(
    _ name: String, of contestants: [(any Contestant)?]
  ) throws(GuestError) -> [Double?] {
    var samples = [[Double]](repeating: [], count: contestants.count)
    try take(name, contestants.indices) { (index, counts) throws(GuestError) in
      guard let contestant = contestants[index] else { return }
      let before = contestant.processorTime
      for _ in 0..<frames { try contestant.play() }
      guard counts else { return }
      samples[index].append(Double(contestant.processorTime - before) / Double(frames))
    }
    return samples.map { median($0) }
  }
}
