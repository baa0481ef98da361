import Pixels

// What is left of a rectangle that is worked on from the top.
extension Rect {
  /// Whether all of another lies inside; of an empty one it does.
  func contains(_ other: Rect) -> Bool {
    if other.isEmpty { return true }
    return other.x >= x && other.y >= y
      && UInt64(other.x) + UInt64(other.width) <= UInt64(x) + UInt64(width)
      && UInt64(other.y) + UInt64(other.height) <= UInt64(y) + UInt64(height)
  }

  /// So many rows from the top, or all of them.
  func first(rows: UInt32) -> Rect {
    Rect(x: x, y: y, width: width, height: min(rows, height))
  }

  /// What is left without so many rows from the top.
  func dropping(rows: UInt32) -> Rect {
    let gone = min(rows, height)
    return Rect(x: x, y: y &+ gone, width: width, height: height - gone)
  }
}
