import Buffers
import GuestMemory
import VhostUser

/// A picture or blob of the guest's, virtio 1.3 §5.7.6.8.
final class Resource {
  /// What made it.
  enum Kind: Equatable {
    case image2D
    case guestBlob(size: UInt64)
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
  /// The pixels in the guest's pages, nil where those do not hold a whole picture.
  private(set) var guestPixels: PixelSource?
  /// The snapshot.
  private(set) var image: HostImage?
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
  /// The last dma-buf of pages that the guest has exchanged for others since.
  var predecessor: BufferName?
  /// Its name among other devices.
  var objectID: SharedObjectID?
  /// Another device has its dma-buf, perhaps.
  var isImported = false

  /// A 2D resource; nothing is allocated yet. Nil over budget.
  init?(id: UInt32, width: UInt32, height: UInt32, fourcc: FourCC, _ budget: HostBudget) {
    self.id = id
    self.budget = budget
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
    kind = .guestBlob(size: blobSize)
    layout = PixelLayout(width: 0, height: 0, stride: 0, fourcc: .xrgb8888)
  }

  var isBlob: Bool { kind != .image2D }

  /// Bytes that the guest may address in it.
  var size: UInt64 {
    switch kind {
    case .image2D: return layout.size
    case .guestBlob(let size): return size
    }
  }

  func attach(_ new: Backing) {
    backing = new
    lost = nil
    copyReason = nil
    guestPixels = new.pixels(layout)
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
    image = nil
    imageIsStale = false
    if isBlob { share = nil }
  }

  /// Takes lost pages up again if all of them are in guest memory; false otherwise.
  func recover(in memory: GuestMemory) -> Bool {
    guard let lost, let back = Backing(lost, in: memory) else { return false }
    attach(back)
    if image == nil { imageIsStale = true }
    return true
  }

  /// Gives a blob the layout of a scanout; true if it had another one.
  func setBlobLayout(_ new: PixelLayout) -> Bool {
    guard new != layout else { return false }
    layout = new
    guestPixels = backing?.pixels(new)
    copyReason = nil
    image = nil
    share = nil
    return true
  }

  /// Copies a rectangle from the guest's pages into the snapshot, as TRANSFER_TO_HOST_2D does.
  ///
  /// - Parameter offset: where the rectangle's first pixel is in the pages, in bytes.
  func transfer(_ rect: Rect, offset: UInt64) throws(Response) {
    let image = try ensureImage()
    if let source = guestPixels {
      image.transfer(rect, from: source, offset: offset)
    } else if let source = backing?.pixels(.init(width: 0, height: 0, stride: 0, fourcc: .xrgb8888))
    {
      image.transfer(rect, from: source, offset: offset)
    }
  }

  /// Makes the snapshot equal to the guest's pages.
  func snapshot() throws(Response) {
    guard let source = guestPixels else { return }
    let all = Rect(x: 0, y: 0, width: layout.width, height: layout.height)
    try ensureImage().copy(all, from: source)
    imageIsStale = false
  }

  @discardableResult
  func ensureImage() throws(Response) -> HostImage {
    if let image { return image }
    if share == nil { share = budget.take(layout.size) }
    guard share != nil,
      let made = HostImage(width: layout.width, height: layout.height, fourcc: layout.fourcc)
    else { throw .outOfMemory }
    image = made
    return made
  }
}
