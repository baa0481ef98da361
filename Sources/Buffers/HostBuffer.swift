import Fences
import Linux
import Pixels

/// Host memory that somebody else draws pictures into for an output: one of a few, shown in turn.
///
/// A renderer that lives in another process hands it in. The same object stands for the same
/// memory each time it is shown; another size or format means other objects.
public final class HostBuffer {
  /// One plane of a picture, as linux-dmabuf-v1 and drm_mode_fb_cmd2 know them.
  public struct Plane {
    /// The dma-buf or memfd.
    public let fd: SharedFD
    /// Bytes from its start to the plane's first row.
    public let offset: UInt32
    /// Bytes from one row to the next.
    public let stride: UInt32

    /// Describes a plane; nothing is checked.
    public init(fd: SharedFD, offset: UInt32, stride: UInt32) {
      self.fd = fd
      self.offset = offset
      self.stride = stride
    }
  }

  /// What the descriptors are.
  public enum Memory: Sendable {
    /// dma-bufs, which devices import.
    case dmaBuf
    /// memfds, which processors read.
    case memfd
  }

  /// Never used again in this process.
  public let id: UInt64
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// The pixel format.
  public let fourcc: FourCC
  /// `DRM_FORMAT_MOD_*`.
  public let modifier: UInt64
  /// One to four planes.
  public let planes: [Plane]
  /// What the planes' descriptors are.
  public let memory: Memory
  /// The picture for the processor: linear, one plane.
  public let pixels: PixelSource
  /// Keeps what ``pixels`` points to mapped.
  private let mapping: AnyObject?
  /// What the memory is paid with, for as long as anybody has it.
  let charge: AnyObject?
  /// The same picture where devices import it best; set before the buffer is offered.
  public var exported: HostExport?
  /// The renderer draws into it no more: it is to be taken from everybody once it is not shown.
  public var isRetired = false
  /// What consumers get; nil before ``BufferStore/offer(_:asCopy:)``.
  public internal(set) var offered: OfferedBuffer? {
    didSet { if let offered { last = offered } }
  }
  /// What they got last, for as long as anybody here has it.
  private weak var last: OfferedBuffer?
  /// They got the memfd itself, so that nothing tells when the last of them has let it go.
  public internal(set) var isGivenAway = false
  /// Why that is a read-only copy and no dma-buf.
  public internal(set) var copyReason: CopyReason?

  /// Somebody on the host reads it, who may hold it longer than its picture is the newest: a copy,
  /// or a dma-buf as far as its own fences tell. Locks of commits are not seen here.
  public var hasReaders: Bool {
    guard let offered = offered ?? last else { return false }
    return offered.lock.readers > 0 || offered.busy != nil
  }

  /// The next ``BufferStore/offer(_:asCopy:)`` makes another one.
  public func forgetOffer() { offered = nil }

  /// Describes a buffer.
  ///
  /// - Parameters:
  ///   - mapping: is kept as long as the buffer.
  ///   - charge: what the memory is paid with; is kept as long as anybody has a dma-buf of it.
  public init(
    id: UInt64, width: UInt32, height: UInt32, fourcc: FourCC, modifier: UInt64 = linearModifier,
    planes: [Plane], memory: Memory, pixels: PixelSource, mapping: AnyObject?,
    charge: AnyObject? = nil
  ) {
    self.id = id
    self.width = width
    self.height = height
    self.fourcc = fourcc
    self.modifier = modifier
    self.planes = planes
    self.memory = memory
    self.pixels = pixels
    self.mapping = mapping
    self.charge = charge
  }
}

/// Keeps a ``HostBuffer`` from being drawn into, for as long as anybody holds it.
public final class HostLock {
  private let released: () -> Void

  /// - Parameter released: runs with the last reference, in the loop's thread and perhaps in the
  ///   middle of anything: note it and act later.
  public init(_ released: @escaping () -> Void) { self.released = released }

  deinit { released() }
}

/// A finished picture in a ``HostBuffer``.
public struct HostFrame {
  /// Where it is.
  public let buffer: HostBuffer
  /// A sync_file to wait for before it is read; nil where it is finished.
  public let acquire: SharedFD?
  /// Keeps it as it is.
  public let lock: HostLock

  /// Puts the parts together.
  public init(buffer: HostBuffer, acquire: SharedFD?, lock: HostLock) {
    self.buffer = buffer
    self.acquire = acquire
    self.lock = lock
  }
}
