import Glibc
import Linux
import PinholeProtocol
import Scene

/// Cursor images as consumers get them: in a few memfds that are used again and again, so that
/// whoever keeps some has nothing that others have to pay for.
///
/// A consumer reads an image when the message comes: what was sent stays as it is for ``rest``. Who
/// reads later may find a newer image, for which it then gets a message too.
final class FrameCursorFiles {
  /// Nanoseconds.
  static let rest: UInt64 = 1_000_000_000
  /// Guests' cursors are 64 by 64 at most, in general.
  private static let small = 64 * 64 * 4
  private static let large = Int(PINHOLE_MAX_CURSOR) * Int(PINHOLE_MAX_CURSOR) * 4
  private static let mostSmall = 32
  private static let mostLarge = 4

  /// One memfd.
  final class Slot {
    let fd: SharedFD
    fileprivate let mapping: Mapping
    fileprivate var serial: UInt64
    fileprivate var sentAt: UInt64 = 0

    fileprivate init(_ capacity: Int, _ serial: UInt64) throws(Errno) {
      let fd = try MemFD.create("pinhole-cursor", size: capacity)
      mapping = try Mapping(fd: fd.raw, offset: 0, count: capacity, writable: true)
      try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: fd.raw)
      self.fd = SharedFD(fd)
      self.serial = serial
    }
  }

  private var slots: [Slot] = []

  /// Makes no memory yet.
  init() {}

  /// A memfd with an image that is sent now; nil while there is none for it.
  ///
  /// - Throws: `EINVAL` for an image that has no right size, and errors of memfd_create(2).
  func slot(for image: CursorImage) throws(Errno) -> Slot? {
    let sizes = 1...PINHOLE_MAX_CURSOR
    guard sizes.contains(image.width), sizes.contains(image.height),
      image.pixels.count == Int(image.width) * Int(image.height) * 4
    else { throw Errno(EINVAL, "memcpy") }
    let isSmall = image.pixels.count <= Self.small
    let capacity = isSmall ? Self.small : Self.large
    let peers = slots.filter { ($0.mapping.count < Self.large) == isSmall }
    let now = Clock.now
    if let same = peers.first(where: { $0.serial == image.serial }) {
      same.sentAt = now
      return same
    }
    let slot: Slot
    if let free = peers.first(where: { now &- $0.sentAt >= Self.rest }) {
      slot = free
    } else {
      guard peers.count < (isSmall ? Self.mostSmall : Self.mostLarge) else { return nil }
      slot = try Slot(capacity, image.serial)
      slots.append(slot)
    }
    slot.sentAt = now
    slot.serial = image.serial
    image.pixels.withUnsafeBytes { slot.mapping.bytes.copyMemory(from: $0) }
    return slot
  }
}
