import CLinux
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

/// Memory with pixels that the producer shares: one generation of a buffer.
///
/// It belongs to the thread of its ``FrameConsumer``. Once the generation is removed nothing
/// can be read any more.
public final class ReceivedBuffer {
  /// What the descriptors are.
  public typealias Memory = FrameMemory

  /// Its name.
  public let name: BufferName
  /// Where the pixels are; of one plane, linear, unless ``FrameConsumer/Options/takesModifiers``.
  public let layout: ImageLayout
  /// Bytes of memory behind each descriptor.
  public let size: UInt64
  /// The first row in memory is the lowest on screen.
  public let isYInverted: Bool
  /// What the descriptors are.
  public let memory: Memory
  /// A frame has shown it.
  var wasShown = false
  private var fds: [SharedFD]
  private var mapping: Mapping?

  init(_ add: BufferAdd, fds: [SharedFD]) {
    name = add.name
    layout = add.layout
    size = add.size
    isYInverted = add.isYInverted
    memory = add.memory
    self.fds = fds
  }

  /// Pixels across.
  public var width: UInt32 { layout.width }
  /// Pixels down.
  public var height: UInt32 { layout.height }
  /// The pixel format.
  public var fourcc: FourCC { layout.fourcc }
  /// `DRM_FORMAT_MOD_*` of drm_fourcc.h; 0 is linear.
  public var modifier: UInt64 { layout.modifier }
  /// Bytes from one row of the first plane to the next.
  public var stride: UInt32 { layout.planes.first?.stride ?? 0 }
  /// Bytes from the start of the first plane's memory to its first row.
  public var offset: UInt64 { layout.planes.first?.offset ?? 0 }

  /// The first plane's descriptor for an import elsewhere, -1 once the generation is closed.
  ///
  /// It stays this object's: duplicate it to keep it.
  public var descriptor: CInt {
    layout.planes.first.map { descriptor(of: $0) } ?? -1
  }

  /// The descriptor in which a plane lies, -1 once the generation is closed.
  ///
  /// It stays this object's: duplicate it to keep it.
  public func descriptor(of plane: PixelPlane) -> CInt {
    let index = Int(plane.descriptor)
    return fds.indices.contains(index) ? fds[index].raw : -1
  }

  /// Lets a function look at the first descriptor's whole memory, mapped read-only.
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
      if memory == .dmaBuf {
        try check(ph_dmabuf_begin_read(number), "ioctl(DMA_BUF_IOCTL_SYNC)")
      }
      let result = body(bytes)
      if memory == .dmaBuf { try check(ph_dmabuf_end_read(number), "ioctl(DMA_BUF_IOCTL_SYNC)") }
      return result
    } catch {
      throw error.code == EBADF ? .closed : .system(error)
    }
  }

  /// Copies a rectangle: 4 bytes a pixel, rows from the top without gaps.
  ///
  /// - Parameter rect: in pixels of the buffer.
  /// - Throws: ``FramesError/unreadable(_:_:)`` if the rectangle does not fit, or where the pixels
  ///   are not linear with 4 bytes each, so that only a GPU can read them.
  public func pixels(of rect: Rect) throws(FramesError) -> [UInt8] {
    guard !rect.isEmpty, rect.fits(width: width, height: height) else {
      throw .unreadable(name, "\(rect) is outside \(width)x\(height)")
    }
    guard let packed = layout.packed else {
      throw .unreadable(name, "\(fourcc) with modifier 0x\(String(modifier, radix: 16))")
    }
    let row = Int(rect.width) * 4
    return try read { bytes in
      [UInt8](unsafeUninitializedCapacity: row * Int(rect.height)) { out, count in
        for line in 0..<Int(rect.height) {
          let y = Int(rect.y) + line
          let inMemory = isYInverted ? Int(height) - 1 - y : y
          let from = Int(packed.offset) + inMemory * Int(packed.stride) + Int(rect.x) * 4
          guard let target = out.baseAddress, let source = bytes.baseAddress else { break }
          memcpy(target + line * row, source + from, row)
        }
        count = row * Int(rect.height)
      }
    }
  }

  /// Unmaps the memory and closes the descriptors.
  func close() {
    mapping = nil
    fds = []
  }
}
