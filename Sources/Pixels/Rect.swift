/// A rectangle of pixels.
public struct Rect: Equatable, Sendable, CustomStringConvertible {
  /// Left edge.
  public var x: UInt32
  /// Top edge.
  public var y: UInt32
  /// Pixels across.
  public var width: UInt32
  /// Pixels down.
  public var height: UInt32

  /// Makes a rectangle; nothing is checked.
  public init(x: UInt32 = 0, y: UInt32 = 0, width: UInt32, height: UInt32) {
    self.x = x
    self.y = y
    self.width = width
    self.height = height
  }

  /// Nothing is inside.
  public var isEmpty: Bool { width == 0 || height == 0 }

  /// Whether all of it lies inside `0..<width` and `0..<height`.
  public func fits(width limitX: UInt32, height limitY: UInt32) -> Bool {
    UInt64(x) + UInt64(width) <= UInt64(limitX) && UInt64(y) + UInt64(height) <= UInt64(limitY)
  }

  /// For example `0,0 640x480`.
  public var description: String { "\(x),\(y) \(width)x\(height)" }

  /// Pixels inside.
  public var area: UInt64 { UInt64(width) &* UInt64(height) }

  /// The part that both share, nil if there is none.
  public func intersection(_ other: Rect) -> Rect? {
    let left = max(x, other.x)
    let top = max(y, other.y)
    let right = min(UInt64(x) + UInt64(width), UInt64(other.x) + UInt64(other.width))
    let bottom = min(UInt64(y) + UInt64(height), UInt64(other.y) + UInt64(other.height))
    guard right > UInt64(left), bottom > UInt64(top) else { return nil }
    return Rect(
      x: left, y: top, width: UInt32(right - UInt64(left)), height: UInt32(bottom - UInt64(top)))
  }

  /// The smallest rectangle around both.
  public func union(_ other: Rect) -> Rect {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let left = min(x, other.x)
    let top = min(y, other.y)
    let right = max(UInt64(x) + UInt64(width), UInt64(other.x) + UInt64(other.width))
    let bottom = max(UInt64(y) + UInt64(height), UInt64(other.y) + UInt64(other.height))
    return Rect(
      x: left, y: top, width: UInt32(clamping: right - UInt64(left)),
      height: UInt32(clamping: bottom - UInt64(top)))
  }
}
