import Fences
import Linux
import Pixels

/// One generation of a buffer, as host consumers get it.
///
/// A buffer keeps its id while its picture lives; each time its pages change it gets a new
/// generation, and the old one is revoked from every consumer before the new one is offered.
public final class OfferedBuffer {
  /// What the descriptors are.
  public enum Memory: Sendable {
    /// A dma-buf over the guest's own pages.
    case guestPages
    /// dma-bufs that a renderer draws into.
    case rendered
    /// A sealed memfd that holds a copy; consumers cannot write to it.
    case copy
  }

  /// Names the buffer; never used again for another picture in this process.
  public let id: UInt32
  /// Counts from 1.
  public let generation: UInt32
  /// Where the pixels are: which planes lie in which descriptor, and the modifier.
  public let layout: ImageLayout
  /// Length of the memory in bytes; every descriptor's is at least as long.
  public let size: UInt64
  /// The dma-buf or memfd, in which the first plane lies.
  public let fd: SharedFD
  /// What other planes lie in, as a renderer's may: descriptors 1 and following.
  public let others: [SharedFD]
  /// What the descriptors are.
  public let memory: Memory
  /// The first row in memory is the lowest of the picture.
  public let isYInverted: Bool
  /// Who reads a copy, which is drawn into again when nobody does. What is no copy is kept by the
  /// lock of the commit that shows it.
  public let lock = Hold()
  /// What the memory is paid with for as long as this object holds it: a ``Pin`` for guest pages, a
  /// share of the guest's host memory for what a renderer draws into.
  var charge: AnyObject?
  /// Takes over what others still have when this object goes.
  var leftovers: Leftovers?
  /// Those who were given the descriptors.
  public let recipients: Recipients
  /// Keeps the memory of a copy from being used for another, and what a ``HostExport`` is paid with.
  var keeper: AnyObject?

  /// Offers memory to consumers.
  public init(
    id: UInt32, generation: UInt32, layout: ImageLayout, size: UInt64, fd: SharedFD,
    others: [SharedFD] = [], memory: Memory, isYInverted: Bool = false,
    recipients: Recipients = Recipients()
  ) {
    self.id = id
    self.generation = generation
    self.layout = layout
    self.size = size
    self.fd = fd
    self.others = others
    self.memory = memory
    self.isYInverted = isYInverted
    self.recipients = recipients
  }

  /// Offers memory of one plane whose pixels the processor can read.
  public convenience init(
    id: UInt32, generation: UInt32, layout: PixelLayout, size: UInt64, fd: SharedFD,
    memory: Memory, isYInverted: Bool = false
  ) {
    self.init(
      id: id, generation: generation, layout: ImageLayout(layout), size: size, fd: fd,
      memory: memory, isYInverted: isYInverted)
  }

  /// Offers what a renderer draws into; nil where that is no dma-buf, which nobody could import.
  ///
  /// - Parameters:
  ///   - host: the memory.
  ///   - size: bytes in the shortest of its dma-bufs.
  public convenience init?(_ host: HostBuffer, size: UInt64) {
    guard host.memory == .dmaBuf, let first = host.planes.first?.fd else { return nil }
    var descriptors = [first]
    var planes: [PixelPlane] = []
    for plane in host.planes {
      let known = descriptors.firstIndex { $0 === plane.fd }
      if known == nil { descriptors.append(plane.fd) }
      planes.append(
        PixelPlane(
          descriptor: UInt32(known ?? descriptors.count - 1), stride: plane.stride,
          offset: UInt64(plane.offset)))
    }
    self.init(
      id: BufferID.next(), generation: 1,
      layout: ImageLayout(
        width: host.width, height: host.height, fourcc: host.fourcc, modifier: host.modifier,
        planes: planes),
      size: size, fd: first, others: Array(descriptors.dropFirst()), memory: .rendered)
  }

  /// Whether it is what the guest or a renderer draws into: dma-bufs, which whoever has them can
  /// write to, and whose readers keep the drawing back.
  public var isOriginal: Bool { memory != .copy }

  /// Runs `body` for each descriptor.
  public func forEachDescriptor<E>(_ body: (SharedFD) throws(E) -> Void) throws(E) {
    try body(fd)
    for other in others { try body(other) }
  }

  /// A dma-buf that somebody still reads or writes, as far as its own fences tell; nil for copies.
  public var busy: SharedFD? {
    guard isOriginal else { return nil }
    if !DmaBufFences.isIdle(fd.raw) { return fd }
    return others.first { !DmaBufFences.isIdle($0.raw) }
  }

  deinit {
    guard let charge, let leftovers else { return }
    forEachDescriptor {
      leftovers.take($0, charge, name: "\(id).\(generation)", size: size, from: recipients)
    }
  }

  /// Somebody was sent the descriptor.
  public func given(to recipient: Recipient) { recipients.given(to: recipient) }

  /// Somebody says that he closed it.
  public func closed(by recipient: Recipient) { recipients.closed(by: recipient) }
}

/// Why a generation of a buffer is taken from its consumers.
public enum RevocationReason: UInt32, Sendable {
  /// The guest destroyed the picture.
  case destroyed = 1
  /// The guest's pages were discarded; the next generation follows.
  case discarded = 2
  /// The guest gave the picture other pages; the next generation follows.
  case rebacked = 3
  /// The device was reset.
  case reset = 4
  /// The guest memory under it was unplugged.
  case memoryRemoved = 5
  /// Nothing shows it any more; it may be offered again.
  case unused = 6
  /// Pinhole is shutting down.
  case shutdown = 7
  /// A consumer did not answer a frame of this copy in time.
  case timeout = 8
}
