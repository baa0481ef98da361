/// A rectangle of pixels of a picture. RFB's coordinates take 16 bits, so no sum overflows.
public struct Area: Equatable, Hashable, Sendable, CustomStringConvertible {
  /// Left edge.
  public let x: Int
  /// Top edge.
  public let y: Int
  /// Pixels across.
  public let width: Int
  /// Pixels down.
  public let height: Int

  /// Makes a rectangle; negative sizes and what is right of or below 65535 are cut off.
  public init(x: Int, y: Int, width: Int, height: Int) {
    self.x = min(max(x, 0), 65535)
    self.y = min(max(y, 0), 65535)
    self.width = min(max(width, 0), 65535 - self.x)
    self.height = min(max(height, 0), 65535 - self.y)
  }

  /// A whole picture.
  public init(width: Int, height: Int) { self.init(x: 0, y: 0, width: width, height: height) }

  /// The column behind the last one.
  public var right: Int { x + width }
  /// The row behind the last one.
  public var bottom: Int { y + height }
  /// Nothing is inside.
  public var isEmpty: Bool { width == 0 || height == 0 }
  /// Pixels inside.
  public var count: Int { width * height }

  /// What is inside of both.
  public func intersection(_ other: Area) -> Area {
    let left = max(x, other.x)
    let top = max(y, other.y)
    return Area(
      x: left, y: top, width: min(right, other.right) - left,
      height: min(bottom, other.bottom) - top)
  }

  /// The smallest rectangle around both.
  public func union(_ other: Area) -> Area {
    if isEmpty { return other }
    if other.isEmpty { return self }
    let left = min(x, other.x)
    let top = min(y, other.y)
    return Area(
      x: left, y: top, width: max(right, other.right) - left,
      height: max(bottom, other.bottom) - top)
  }

  /// Whether another rectangle lies inside.
  public func contains(_ other: Area) -> Bool { intersection(other) == other }

  /// Up to four rectangles: what is not inside of another one.
  func without(_ other: Area) -> [Area] {
    let hole = intersection(other)
    if hole.isEmpty { return isEmpty ? [] : [self] }
    return [
      Area(x: x, y: y, width: width, height: hole.y - y),
      Area(x: x, y: hole.y, width: hole.x - x, height: hole.height),
      Area(x: hole.right, y: hole.y, width: right - hole.right, height: hole.height),
      Area(x: x, y: hole.bottom, width: width, height: bottom - hole.bottom),
    ].filter { !$0.isEmpty }
  }

  /// For example `0,0 640x480`.
  public var description: String { "\(x),\(y) \(width)x\(height)" }
}

/// A set of pixels as rectangles that do not overlap; of bounded size.
public struct Region: Equatable, Sendable {
  /// The rectangles, in no order.
  public private(set) var areas: [Area] = []
  /// With more than so many it becomes the rectangle around them.
  private static let limit = 64

  /// Nothing.
  public init() {}

  /// Nothing is inside.
  public var isEmpty: Bool { areas.isEmpty }

  /// The smallest rectangle around all.
  public var bounds: Area { areas.reduce(Area(width: 0, height: 0)) { $0.union($1) } }

  /// Puts a rectangle in.
  public mutating func add(_ area: Area) {
    if area.isEmpty || areas.contains(where: { $0.contains(area) }) { return }
    areas.removeAll { area.contains($0) }
    var pieces = [area]
    for known in areas { pieces = pieces.flatMap { $0.without(known) } }
    areas += pieces
    if areas.count > Self.limit { areas = [bounds] }
  }

  /// Takes a rectangle out.
  public mutating func remove(_ area: Area) {
    if area.isEmpty { return }
    areas = areas.flatMap { $0.without(area) }
    // What is taken out of a ragged set can leave many splinters: send a little twice rather.
    if areas.count > Self.limit { areas = [bounds] }
  }

  /// What is inside of a rectangle too.
  public func intersection(_ area: Area) -> [Area] {
    areas.map { $0.intersection(area) }.filter { !$0.isEmpty }
  }
}
