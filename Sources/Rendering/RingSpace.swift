/// Which bytes of the ring are in use: taken and given back in the same order.
struct RingSpace {
  private let size: Int
  private var taken: [Range<Int>] = []

  init(size: Int) { self.size = size }

  /// Bytes in use.
  var used: Int { taken.reduce(0) { $0 + $1.count } }

  /// Takes `count` bytes in one piece; where they begin, nil while there is no such piece.
  mutating func take(_ count: Int) -> Int? {
    guard count > 0, let start = place(count) else { return nil }
    taken.append(start..<(start + count))
    return start
  }

  private func place(_ count: Int) -> Int? {
    guard let first = taken.first, let last = taken.last else { return count <= size ? 0 : nil }
    if last.lowerBound < first.lowerBound {
      return count <= first.lowerBound - last.upperBound ? last.upperBound : nil
    }
    if count <= size - last.upperBound { return last.upperBound }
    return count <= first.lowerBound ? 0 : nil
  }

  /// Gives back the piece that was taken first.
  mutating func giveBack() { if !taken.isEmpty { taken.removeFirst() } }

  /// Gives back the piece that was taken last: it was not used.
  mutating func takeBack() { _ = taken.popLast() }
}
