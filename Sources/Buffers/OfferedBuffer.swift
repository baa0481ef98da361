import Linux

/// One generation of a buffer, as host consumers get it.
///
/// A buffer keeps its id while its picture lives; each time its pages change it gets a new
/// generation, and the old one is withdrawn from every consumer before the new one is offered.
public final class OfferedBuffer {
  /// What the descriptor is.
  public enum Memory: Sendable {
    /// A dma-buf over the guest's own pages.
    case guestPages
    /// A sealed memfd that holds a copy; consumers cannot write to it.
    case copy
  }

  /// Names the buffer; never used again for another picture in this process.
  public let id: UInt32
  /// Counts from 1.
  public let generation: UInt32
  /// Where the pixels are in it.
  public let layout: PixelLayout
  /// Length of the memory in bytes, a multiple of the page size.
  public let size: UInt64
  /// The dma-buf or memfd.
  public let fd: SharedFD
  /// What the descriptor is.
  public let memory: Memory
  /// The first row in memory is the lowest of the picture.
  public let isYInverted: Bool
  /// Frames that consumers have not released yet.
  public private(set) var uses = 0
  /// Called whenever `uses` returns to zero.
  public var onIdle: (() -> Void)?
  /// Counts the guest pages as pinned for as long as this object holds them.
  var pin: Pin?

  /// Offers memory to consumers.
  public init(
    id: UInt32, generation: UInt32, layout: PixelLayout, size: UInt64, fd: SharedFD,
    memory: Memory, isYInverted: Bool = false
  ) {
    self.id = id
    self.generation = generation
    self.layout = layout
    self.size = size
    self.fd = fd
    self.memory = memory
    self.isYInverted = isYInverted
  }

  /// A consumer was sent a frame that shows this buffer.
  public func beginUse() { uses &+= 1 }

  /// A consumer released such a frame, or is gone.
  public func endUse() {
    guard uses > 0 else { return }
    uses &-= 1
    if uses == 0 { onIdle?() }
  }
}

/// Why a generation of a buffer is taken from its consumers.
public enum WithdrawReason: UInt32, Sendable {
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
}
