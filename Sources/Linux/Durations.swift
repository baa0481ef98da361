/// How long something took, each time: a histogram.
public struct Durations: Sendable {
  /// Upper bounds of all buckets but the last, in microseconds, rising.
  public let bounds: [UInt64]
  /// How many took at most the bound of the same index, and more than the one before; the last
  /// took longer than all bounds.
  public private(set) var counts: [UInt64]
  /// All times together, in nanoseconds.
  public private(set) var sum: UInt64 = 0
  /// The longest time, in nanoseconds.
  public private(set) var longest: UInt64 = 0

  /// An empty histogram.
  ///
  /// - Parameter bounds: of the buckets, in microseconds, rising.
  public init(bounds: [UInt64]) {
    self.bounds = bounds
    counts = [UInt64](repeating: 0, count: bounds.count + 1)
  }

  /// How many times there were.
  public var count: UInt64 { counts.reduce(0, &+) }

  /// Takes a time in nanoseconds. Allocates nothing.
  public mutating func add(_ nanoseconds: UInt64) {
    sum &+= nanoseconds
    longest = max(longest, nanoseconds)
    var bucket = 0
    while bucket < bounds.count, nanoseconds > bounds[bucket] &* 1000 { bucket += 1 }
    counts[bucket] &+= 1
  }
}
