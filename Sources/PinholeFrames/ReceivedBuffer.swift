import CLinux
import Glibc
import Linux
import PinholeProtocol

/// Memory with pixels that the producer shares: one generation of a buffer.
///
/// It belongs to the thread of its ``FrameConsumer``. Once the generation is removed nothing
/// can be read any more.
public final class ReceivedBuffer {
  /// What the descriptor is.
  public enum Memory: Sendable, Equatable {
    /// A dma-buf over the guest's own pages.
    case dmaBuf
    /// A memfd that cannot shrink, with a copy.
    case copy
  }

  /// Its name.
  public let name: BufferName
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// `DRM_FORMAT_*` of drm_fourcc.h.
  public let fourcc: UInt32
  /// `DRM_FORMAT_MOD_*` of drm_fourcc.h; 0 is linear.
  public let modifier: UInt64
  /// Bytes from one row to the next.
  public let stride: UInt32
  /// Bytes from the start of the memory to the first row.
  public let offset: UInt64
  /// Bytes of memory.
  public let size: UInt64
  /// The first row in memory is the lowest on screen.
  public let isYInverted: Bool
  /// What the descriptor is.
  public let memory: Memory
  private var fd: OwnedFD?
  private var mapping: Mapping?

  init(_ body: pinhole_buffer_add, fd: consuming OwnedFD) {
    name = BufferName(number: body.buffer, generation: body.generation)
    width = body.width
    height = body.height
    fourcc = body.fourcc
    modifier = body.modifier
    stride = body.planes.0.stride
    offset = body.planes.0.offset
    size = body.size
    isYInverted = body.flags & PINHOLE_BUFFER_Y_INVERT != 0
    memory = body.flags & PINHOLE_BUFFER_DMABUF != 0 ? .dmaBuf : .copy
    self.fd = consume fd
  }

  /// The descriptor for an import elsewhere, -1 once the generation is closed.
  ///
  /// It stays this object's: duplicate it to keep it.
  public var descriptor: CInt {
    switch fd {
    case .some(let fd): return fd.raw
    case .none: return -1
    }
  }

  /// Lets a function look at the whole memory, mapped read-only.
  ///
  /// A dma-buf is bracketed with `DMA_BUF_IOCTL_SYNC` (linux/dma-buf.h). The bytes may change
  /// while they are read once the frame was released.
  ///
  /// - Throws: ``FramesError/closed`` when the generation was closed; errors of mmap(2).
  public func read<R>(_ body: (UnsafeRawBufferPointer) -> R) throws(FramesError) -> R {
    do throws(Errno) {
      let number = descriptor
      guard number >= 0 else { throw Errno(EBADF, "read") }
      if mapping == nil {
        guard let count = Int(exactly: size) else { throw Errno(EOVERFLOW, "mmap") }
        mapping = try Mapping(fd: number, offset: 0, count: count, writable: false)
      }
      let bytes: UnsafeRawBufferPointer
      switch mapping {
      case .some(let mapping): bytes = UnsafeRawBufferPointer(mapping.bytes)
      case .none: throw Errno(EBADF, "mmap")
      }
      if memory == .dmaBuf { try Self.sync(number, Self.start | Self.reading) }
      let result = body(bytes)
      if memory == .dmaBuf { try Self.sync(number, Self.end | Self.reading) }
      return result
    } catch {
      throw error.code == EBADF ? .closed : .system(error)
    }
  }

  /// Copies a rectangle: 4 bytes a pixel, rows from the top without gaps.
  ///
  /// - Parameter rect: in pixels of the buffer.
  /// - Throws: ``FramesError/malformed(message:field:text:)`` if the rectangle does not fit.
  public func pixels(of rect: PixelRect) throws(FramesError) -> [UInt8] {
    guard rect.fits(width: width, height: height) else {
      throw .malformed(message: "crop", field: nil, text: "\(rect) is outside \(width)x\(height)")
    }
    let row = Int(rect.width) * 4
    return try read { bytes in
      [UInt8](unsafeUninitializedCapacity: row * Int(rect.height)) { out, count in
        for line in 0..<Int(rect.height) {
          let y = Int(rect.y) + line
          let inMemory = isYInverted ? Int(height) - 1 - y : y
          let from = Int(offset) + inMemory * Int(stride) + Int(rect.x) * 4
          guard let target = out.baseAddress, let source = bytes.baseAddress else { break }
          memcpy(target + line * row, source + from, row)
        }
        count = row * Int(rect.height)
      }
    }
  }

  /// Unmaps the memory and closes the descriptor.
  func close() {
    mapping = nil
    fd = nil
  }

  // linux/dma-buf.h
  private static let syncRequest: UInt = 0x4008_6200  // _IOW('b', 0, struct dma_buf_sync)
  private static let reading: UInt64 = 1 << 0
  private static let start: UInt64 = 0 << 2
  private static let end: UInt64 = 1 << 2

  private static func sync(_ fd: CInt, _ flags: UInt64) throws(Errno) {
    var flags = flags
    while true {
      let result = ph_ioctl(fd, syncRequest, &flags)
      if result == -EAGAIN { continue }
      try check(result, "ioctl(DMA_BUF_IOCTL_SYNC)")
      return
    }
  }
}
