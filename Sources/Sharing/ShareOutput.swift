import Buffers
import PinholeFrames
import Pixels
import Scene

/// One output and the copies of what it shows.
final class ShareOutput {
  let index: Int
  private(set) var size: (width: UInt32, height: UInt32)?
  var cursor: CursorState
  /// The last image, also while the cursor is hidden.
  var lastImage: CursorImage?
  /// A frame that is not copied yet, and the part of it that is new.
  var waiting: ReceivedFrame?
  /// The last frame, which was answered and not shown, because there was no memory for any copy.
  var unshown: ReceivedFrame?
  /// That was said of pictures of this size.
  var isToldOfStarving = false
  var news = Rect(x: 0, y: 0, width: 0, height: 0)
  private let memory: CopyMemory
  private var pool: CopyPool?
  /// Copies: two for each of some who read slowly.
  private static let most = 6

  init(_ index: Int, _ memory: CopyMemory) {
    self.index = index
    self.memory = memory
    cursor = CursorState(hiddenOn: index)
  }

  var everything: Rect { Rect(x: 0, y: 0, width: size?.width ?? 0, height: size?.height ?? 0) }

  /// Shows something of another size, or nothing.
  ///
  /// - Returns: copies that are not used any more.
  func reset(_ size: (width: UInt32, height: UInt32)?) -> [OfferedBuffer] {
    self.size = size
    waiting = nil
    unshown = nil
    isToldOfStarving = false
    news = everything
    return dropPool()
  }

  private func dropPool() -> [OfferedBuffer] {
    defer { pool = nil }
    return pool?.offered ?? []
  }

  /// Whether a copy for the next frame can be had.
  var hasRoom: Bool { pool.map { $0.acquire() != nil } ?? true }
  /// There was no memory for any copy when one was asked for last: nobody has one to give back.
  var isStarved: Bool { pool?.isStarved ?? false }

  /// Copies what is new.
  ///
  /// - Returns: the copy to show, if one could be made, and those that are of no use any more.
  func update(
    from pixels: PixelSource, crop: Rect, damage: Rect
  ) -> (made: OfferedBuffer?, obsolete: [OfferedBuffer]) {
    guard let size, crop.width == size.width, crop.height == size.height else { return (nil, []) }
    var obsolete: [OfferedBuffer] = []
    if let pool, pool.fourcc != pixels.layout.fourcc { obsolete = dropPool() }
    let copies =
      pool
      ?? CopyPool(
        width: size.width, height: size.height, fourcc: pixels.layout.fourcc, limit: Self.most,
        in: memory)
    pool = copies
    copies.damage(damage)
    return (copies.update(from: pixels, crop: crop), obsolete)
  }

  /// The newest copy for this process, of which copies with other strides are made.
  var presentPixels: PixelSource? { pool?.currentPixels }

  /// Keeps the memory behind ``presentPixels``.
  var presentOwner: AnyObject? { pool }
}
