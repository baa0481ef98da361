import Buffers
import GPUCommands
import GuestMemory
import Pixels
import Virtqueue

/// A picture or blob of the guest's, virtio 1.3 §5.7.6.8.
final class Resource {
  /// What made it.
  enum Kind: Equatable {
    case image2D
    case guestBlob(size: UInt64)
    /// Lives in the renderer.
    case rendered(ResourceShape)
  }

  let id: UInt32
  let kind: Kind
  /// The layout that the guest draws in; a blob's comes with SET_SCANOUT_BLOB.
  private(set) var layout: PixelLayout
  /// Pays for the snapshot.
  private let budget: HostBudget
  private var share: HostShare?
  /// The guest's pages.
  private(set) var backing: Backing?
  /// Pages that it had, and that the front-end took out of guest memory.
  private(set) var lost: Backing.Lost?
  /// These pages may all be back: that is found out when it is named next, or has its turn.
  var mayRecover = false
  /// The pixels in the guest's pages, nil where those do not hold a whole picture.
  private(set) var guestPixels: PixelSource?
  /// What transfers made of it in host memory.
  var snapshots: Snapshots
  /// Whether transfers were not copied because the pages themselves were shown.
  var imageIsStale = false
  /// The dma-buf over the guest's pages, while it is shown.
  var exported: PageBuffer?
  /// Why its pages cannot be shown directly; nil until that was found out.
  var copyReason: CopyReason?
  /// When that was found, `CLOCK_MONOTONIC` in nanoseconds.
  var copiedSince: UInt64 = 0
  /// Whether the guest transferred from places that are not where the picture's pixels are.
  var isIrregular = false
  /// How many scanouts show it.
  var scanouts = 0
  /// Tick of the last frame that showed the exported buffer.
  var lastShown: UInt64 = 0
  /// When its dma-buf's pages were last looked at, `CLOCK_MONOTONIC` in nanoseconds.
  var lookedAt: UInt64 = 0
  /// The last dma-buf of pages that the guest has exchanged for others, or lost, since.
  var predecessor: BufferName?
  /// Generations that were revoked and that somebody may still use.
  var revocations = 0
  /// Those who wait until there are none.
  private var afterRevocations: [() -> Void] = []
  /// What would keep its pages from being shown directly; the outer nil until somebody asked.
  private var obstacle: CopyReason.Kind??
  /// Its name among other devices.
  var objectID: SharedObjectID?
  /// Another device has its dma-buf, perhaps.
  var isImported = false
  /// The renderer that had it is gone.
  var isLost = false

  /// A 2D resource; nothing is allocated yet. Nil over budget.
  init?(id: UInt32, width: UInt32, height: UInt32, fourcc: FourCC, _ budget: HostBudget) {
    self.id = id
    self.budget = budget
    snapshots = Snapshots(budget)
    kind = .image2D
    let stride = width.multipliedReportingOverflow(by: 4)
    layout = PixelLayout(
      width: width, height: height, stride: stride.overflow ? 0 : stride.partialValue,
      fourcc: fourcc)
    guard let share = budget.take(layout.size) else { return nil }
    self.share = share
  }

  /// A blob in guest memory.
  init(id: UInt32, blobSize: UInt64, _ budget: HostBudget) {
    self.id = id
    self.budget = budget
    snapshots = Snapshots(budget)
    kind = .guestBlob(size: blobSize)
    layout = PixelLayout(width: 0, height: 0, stride: 0, fourcc: .xrgb8888)
  }

  /// A resource of the renderer's.
  ///
  /// - Parameters:
  ///   - fourcc: nil where it cannot be shown.
  ///   - share: pays for what it takes there.
  init(
    id: UInt32, _ shape: ResourceShape, fourcc: FourCC?, _ budget: HostBudget, _ share: HostShare
  ) {
    self.id = id
    self.budget = budget
    snapshots = Snapshots(budget)
    self.share = share
    kind = .rendered(shape)
    layout = PixelLayout(
      width: fourcc == nil ? 0 : shape.width, height: fourcc == nil ? 0 : shape.height, stride: 0,
      fourcc: fourcc ?? .xrgb8888)
  }

  var isBlob: Bool { if case .guestBlob = kind { true } else { false } }
  /// What it is in the renderer; nil if it is not there.
  var shape: ResourceShape? { if case .rendered(let shape) = kind { shape } else { nil } }

  /// Bytes that the guest may address in it.
  var size: UInt64 {
    switch kind {
    case .image2D: return layout.size
    case .guestBlob(let size): return size
    case .rendered: return backing?.count ?? 0
    }
  }

  /// Runs `body` once nobody uses a revoked generation any more: at once if there is none.
  func whenRevoked(_ body: @escaping () -> Void) {
    if revocations == 0 { return body() }
    afterRevocations.append(body)
  }

  /// All have let go of one revoked generation.
  func revoked() {
    revocations -= 1
    guard revocations == 0 else { return }
    let calls = afterRevocations
    afterRevocations = []
    for call in calls { call() }
  }

  /// What would keep its pages from being shown directly, found out once.
  func obstacle(in store: BufferStore) -> CopyReason.Kind? {
    if let obstacle { return obstacle }
    let window = backing?.window(layout)
    let found = window.flatMap { store.obstacle(layout: $0.layout, ranges: $0.ranges)?.kind }
    obstacle = .some(found)
    return found
  }

  func attach(_ new: Backing) {
    obstacle = nil
    backing = new
    lost = nil
    copyReason = nil
    guestPixels = shape == nil ? new.pixels(layout) : nil
  }

  func detach() {
    backing = nil
    lost = nil
    guestPixels = nil
  }

  /// Its pages are not in guest memory any more.
  ///
  /// - Parameter wereShown: the pages themselves were, so that the picture is gone with them.
  func lose(wereShown: Bool) {
    let remembered = backing?.lost
    detach()
    lost = remembered
    guard wereShown else { return }
    snapshots.removeAll()
    imageIsStale = false
    if isBlob { share = nil }
  }

  /// Takes lost pages up again if all of them are in guest memory; false otherwise.
  func recover(in memory: GuestMemory) -> Bool {
    guard var remembered = lost else { return false }
    let back = Backing(&remembered, in: memory)
    lost = remembered
    guard let back else { return false }
    attach(back)
    if snapshots.image == nil { imageIsStale = true }
    return true
  }

  /// Gives a blob the layout of a scanout; true if it had another one.
  func setBlobLayout(_ new: PixelLayout) -> Bool {
    guard new != layout else { return false }
    layout = new
    obstacle = nil
    guestPixels = backing?.pixels(new)
    copyReason = nil
    snapshots.removeAll()
    share = nil
    return true
  }

  /// To be called before a rectangle of the snapshot is written, so that nobody reads what changes.
  func prepare(_ rect: Rect) throws(GPUError) {
    try ensureImage()
    try snapshots.prepare(rect)
  }

  /// Copies a rectangle from the guest's pages into the snapshot, as TRANSFER_TO_HOST_2D does.
  ///
  /// - Parameter offset: where the rectangle's first pixel is in the pages, in bytes.
  func transfer(_ rect: Rect, offset: UInt64) throws(GPUError) {
    try prepare(rect)
    _ = snapshots.catchUp(before: rect)
    write(rect, offset: offset)
  }

  /// Makes the snapshot equal to the guest's pages.
  func snapshot() throws(GPUError) {
    guard guestPixels != nil else { return }
    try prepare(whole)
    write(whole, offset: nil)
    imageIsStale = false
  }

  /// All of it, in pixels.
  var whole: Rect { Rect(width: layout.width, height: layout.height) }

  /// Copies a rectangle from the guest's pages, if there are any, into a snapshot that is prepared.
  ///
  /// - Parameter offset: where the rectangle's first pixel is in the pages, in bytes; nil where the
  ///   picture has it.
  func write(_ rect: Rect, offset: UInt64?) {
    guard let image = snapshots.image else { return }
    if let offset {
      let bytes = PixelLayout(width: 0, height: 0, stride: 0, fourcc: .xrgb8888)
      guard let source = guestPixels ?? backing?.pixels(bytes) else { return }
      image.transfer(rect, from: source, offset: offset)
    } else {
      guard let source = guestPixels else { return }
      image.copy(rect, from: source)
    }
    snapshots.wrote(rect)
  }

  /// The guest has no way to draw into it any more: what is shown stays as it is, and pays for itself.
  func settle() {
    snapshots.settle()
    share = nil
  }

  @discardableResult
  func ensureImage() throws(GPUError) -> HostImage {
    if let image = snapshots.image { return image }
    if share == nil { share = budget.take(layout.size) }
    guard let share,
      let made = HostImage(
        width: layout.width, height: layout.height, fourcc: layout.fourcc, budget, share)
    else { throw .outOfMemory }
    snapshots.begin(with: made)
    return made
  }
}
