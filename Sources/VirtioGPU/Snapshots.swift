import GPUCommands
import Pixels
import Scene

/// The pictures in host memory that a guest's transfers to one resource make: one that is written
/// next, and others, so that no display reads a picture that is being changed.
///
/// Displays may read what was flushed last until the next flush, and QEMU's socket refers to one
/// until QEMU has read it. So the first write after a flush goes into another picture, which is
/// given first what it lacks. Three are enough: one on screen, one that is written, and one in a
/// socket, since what is shown may be sent by reference only while no other one is (``still()``).
struct Snapshots {
  /// What the guest's transfers are written into; nil before the first.
  private(set) var image: HostImage?
  /// The one that displays are shown; nil while they are shown none of these.
  private(set) var shown: HostImage?
  /// All but `image`.
  private var spares: [HostImage] = []
  /// Where `image` finds what it lacks.
  private var previous: HostImage?
  private let budget: HostBudget

  private static let most = 3

  /// - Parameter budget: pays for the second and the third.
  init(_ budget: HostBudget) { self.budget = budget }

  /// Begins with a picture that lacks nothing.
  mutating func begin(with first: HostImage) { image = first }

  /// Forgets all.
  mutating func removeAll() {
    image = nil
    shown = nil
    spares = []
    previous = nil
  }

  // MARK: Writing

  /// Somebody reads one of them by reference.
  var isRead: Bool { (image?.isRead ?? false) || spares.contains { $0.isRead } }

  /// To be called before a rectangle is written: sees to it that `image` is one that nobody reads.
  ///
  /// Without memory for another one, what is shown is written into; but never what a socket refers
  /// to.
  ///
  /// - Throws: ``GPUError/outOfMemory`` when there is only such a one.
  mutating func prepare(_ rect: Rect) throws(GPUError) {
    guard let image else { return }
    if shown === image || image.isRead, !leave(image) {
      guard !image.isRead else { throw .outOfMemory }
      image.still?.isStill = false
    }
    for spare in spares { spare.stale = spare.stale.union(rect) }
  }

  /// Goes on with another picture; false without one.
  private mutating func leave(_ old: HostImage) -> Bool {
    _ = catchUp(before: nil)
    spares.removeAll { $0.still?.isForsaken ?? false }
    if let free = freeSpare() {
      image = spares[free]
      spares[free] = old
    } else {
      guard spares.count < Self.most - 1, let made = makeSpare(like: old) else { return false }
      image = made
      spares.append(old)
    }
    previous = old
    return true
  }

  /// The one that lacks least of those that nobody sees.
  private func freeSpare() -> Int? {
    var best: Int?
    for index in spares.indices where spares[index] !== shown && !spares[index].isRead {
      if let best, spares[best].stale.area <= spares[index].stale.area { continue }
      best = index
    }
    return best
  }

  private func makeSpare(like old: HostImage) -> HostImage? {
    let layout = old.layout
    guard let share = budget.takeSpare(layout.size),
      let made = HostImage(
        width: layout.width, height: layout.height, fourcc: layout.fourcc, budget, share)
    else { return nil }
    made.stale = Rect(width: layout.width, height: layout.height)
    return made
  }

  /// Bytes that ``catchUp(before:bytes:)`` has to copy.
  func owed(before rect: Rect?) -> UInt64 {
    guard let stale = image?.stale, rect?.contains(stale) != true else { return 0 }
    return stale.area &* 4
  }

  /// Copies what the picture lacks, unless all of that is about to be written.
  ///
  /// - Parameters:
  ///   - rect: what is about to be written; nil for nothing.
  ///   - bytes: about so many at most.
  /// - Returns: true when it lacks nothing else any more.
  mutating func catchUp(before rect: Rect?, bytes: UInt64 = .max) -> Bool {
    guard let image, let previous, owed(before: rect) > 0 else { return true }
    let row = UInt64(image.stale.width) &* 4
    let part = image.stale.first(rows: UInt32(clamping: max(1, bytes / max(1, row))))
    image.copy(part, from: previous.pixels)
    wrote(part)
    return owed(before: rect) == 0
  }

  /// A rectangle was written that the picture may have lacked.
  mutating func wrote(_ part: Rect) {
    guard let image else { return }
    let stale = image.stale
    if !stale.isEmpty, part.contains(stale.first(rows: 1)) {
      let rows = UInt64(part.y) + UInt64(part.height) - UInt64(stale.y)
      image.stale = stale.dropping(rows: UInt32(clamping: rows))
    }
    if image.stale.isEmpty { previous = nil }
  }

  // MARK: Showing

  /// Displays are shown something else from now on, or what was written last.
  mutating func hide() { shown = nil }

  /// The picture that displays are shown: that of the last flush, or after ``hide()`` the one that
  /// was written last.
  mutating func show() -> HostImage? {
    if shown == nil {
      _ = catchUp(before: nil)
      shown = image
    }
    return shown
  }

  /// What is shown, for those who send it by reference; nil while it may have to be written into
  /// before they are done.
  func still() -> StillPicture? {
    guard let shown, let still = shown.still, !still.isForsaken, !spares.isEmpty,
      spares.count == Self.most - 1 || budget.hasRoom(shown.layout.size)
    else { return nil }
    if let image, image !== shown, image.isRead { return nil }
    for spare in spares where spare !== shown && spare.isRead { return nil }
    still.isStill = true
    return still
  }

  // MARK: Giving memory back

  /// Lets go what can be done without; whether there was any.
  @discardableResult
  mutating func dropSpares() -> Bool {
    // One that a socket refers to must not be the only one.
    guard !isRead else { return false }
    let before = spares.count
    spares.removeAll { $0 !== shown }
    if spares.isEmpty { shown?.still?.isStill = false }
    return spares.count < before
  }

  /// Nothing will be written any more: what is shown stays as it is.
  mutating func settle() {
    if let shown { image = shown }
    spares = []
    previous = nil
  }
}
