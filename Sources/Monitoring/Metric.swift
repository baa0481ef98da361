import Linux

/// A number that a running program exports.
package struct Metric: Equatable, Sendable {
  /// What it is.
  package enum Kind: String, Sendable {
    /// It only rises.
    case counter
    /// It is as it is now.
    case gauge
  }

  /// In the log, in JSON and in the table, such as `pinned-bytes`. What is measured in a unit ends
  /// with it: `-bytes`, `-us` for microseconds.
  package var name: String
  /// `counter` or `gauge`.
  package var kind: Kind
  /// What it counts, in words.
  package var help: String
  /// Its present value.
  package var value: UInt64

  /// A counter or a gauge.
  package init(_ name: String, _ value: UInt64, _ help: String, _ kind: Kind = .counter) {
    self.name = name
    self.kind = kind
    self.help = help
    self.value = value
  }
}

/// How long something took, each time.
package struct DurationMetric: Equatable, Sendable {
  /// Such as `fence-wait`.
  package var name: String
  /// What took that long, in words.
  package var help: String
  /// Upper bounds of all buckets but the last, in microseconds.
  package var bounds: [UInt64]
  /// How many times in each bucket; one more than ``bounds``.
  package var counts: [UInt64]
  /// All times together, in microseconds.
  package var sum: UInt64
  /// The longest time since the start, in microseconds.
  package var longest: UInt64

  /// A histogram.
  package init(_ name: String, _ durations: Durations, _ help: String) {
    self.name = name
    self.help = help
    bounds = durations.bounds
    counts = durations.counts
    sum = durations.sum / 1000
    longest = durations.longest / 1000
  }

  init(
    name: String, help: String, bounds: [UInt64], counts: [UInt64], sum: UInt64, longest: UInt64
  ) {
    self.name = name
    self.help = help
    self.bounds = bounds
    self.counts = counts
    self.sum = sum
    self.longest = longest
  }

  /// How many times there were.
  package var count: UInt64 { counts.reduce(0, &+) }

  /// A bound that as many times as asked were at most: 99 for 99 of a hundred. It is the longest
  /// time for those in the last bucket, 0 where there was none.
  package func percentile(_ percent: UInt64) -> UInt64 {
    let all = count
    var seen: UInt64 = 0
    for (index, bound) in bounds.enumerated() {
      seen &+= counts[index]
      if all > 0, seen &* 100 >= all &* percent { return min(bound, longest) }
    }
    return longest
  }
}
