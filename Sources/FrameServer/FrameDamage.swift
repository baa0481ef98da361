import Buffers
import Pixels

/// What changed on an output since a consumer's last frame: a few rectangles, which may overlap.
struct FrameDamage {
  /// As `PINHOLE_MAX_DAMAGE`.
  static let limit = 16
  private(set) var rects = [Rect]()

  init() { rects.reserveCapacity(Self.limit + 1) }

  var isEmpty: Bool { rects.isEmpty }
  var count: Int { rects.count }
  subscript(_ index: Int) -> Rect { rects[index] }

  mutating func clear() { rects.removeAll(keepingCapacity: true) }

  /// Adds a rectangle. Where there are too many, the two are made one that waste least.
  mutating func add(_ rect: Rect) {
    guard !rect.isEmpty else { return }
    var rect = rect
    var index = 0
    while index < rects.count {
      let both = rect.union(rects[index])
      if Self.area(both) <= Self.area(rect) &+ Self.area(rects[index]) {
        // One holds the other, or they make a rectangle together: what came before may fit too.
        rect = both
        rects.remove(at: index)
        index = 0
      } else {
        index += 1
      }
    }
    rects.append(rect)
    if rects.count > Self.limit { mergeTwo() }
  }

  private mutating func mergeTwo() {
    var best = (0, 1)
    var least = UInt64.max
    for a in rects.indices {
      for b in (a + 1)..<max(rects.count, a + 1) {
        let both = rects[a].union(rects[b]).area
        let waste = both &- min(both, Self.area(rects[a]) &+ Self.area(rects[b]))
        if waste < least {
          least = waste
          best = (a, b)
        }
      }
    }
    let both = rects[best.0].union(rects[best.1])
    rects.remove(at: best.1)
    rects.remove(at: best.0)
    add(both)
  }

  private static func area(_ rect: Rect) -> UInt64 { UInt64(rect.width) &* UInt64(rect.height) }
}
