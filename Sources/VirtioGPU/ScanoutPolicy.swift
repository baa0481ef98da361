/// How 2D resources are shown: the guest's own pages, or a snapshot of them.
public enum ScanoutMode: String, Sendable, CaseIterable {
  /// Blobs directly; 2D resources directly while the guest flips between buffers.
  case auto
  /// Directly wherever it is possible.
  case direct
  /// Always a snapshot.
  case copy
}

/// Decides for one scanout, in ``ScanoutMode/auto``, whether its guest flips between buffers.
///
/// A guest that draws into the resource on screen would be seen in the middle of its drawing;
/// one that flips draws where nobody looks.
struct ScanoutPolicy {
  private static let flipsNeeded = 3
  private static let redrawsAllowed = 2
  private var last: UInt32 = 0
  private var flips = 0
  private var redraws = 0
  /// Whether the guest flips at present.
  private(set) var isFlipping = false

  /// A resource was flushed to the scanout.
  ///
  /// - Returns: whether ``isFlipping`` changed.
  mutating func flushed(_ resource: UInt32) -> Bool {
    defer { last = resource }
    if resource != last {
      flips = last == 0 ? 0 : flips &+ 1
      redraws = 0
    } else {
      redraws &+= 1
      flips = 0
    }
    let before = isFlipping
    if flips >= Self.flipsNeeded { isFlipping = true }
    if redraws >= Self.redrawsAllowed { isFlipping = false }
    return before != isFlipping
  }
}
