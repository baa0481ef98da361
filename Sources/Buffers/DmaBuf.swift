import CLinux
import Linux

/// A dma-buf mapped for reading by the CPU.
public struct DmaBufView: ~Copyable {
  private let fd: SharedFD
  private let mapping: Mapping

  /// Length in bytes.
  public var count: Int { mapping.count }

  /// Maps all of a dma-buf, whose size lseek(2) tells.
  public init(_ fd: SharedFD) throws(Errno) {
    let size = try check(ph_dmabuf_size(fd.raw), "lseek")
    mapping = try Mapping(fd: fd.raw, offset: 0, count: Int(size), writable: false)
    self.fd = fd
  }

  /// Reads between `DMA_BUF_IOCTL_SYNC` start and end (linux/dma-buf.h).
  ///
  /// Waits for whoever writes to it; not to be called from several threads for one descriptor.
  public borrowing func read<R>(_ body: (UnsafeRawBufferPointer) -> R) throws(Errno) -> R {
    try check(ph_dmabuf_begin_read(fd.raw), "ioctl(DMA_BUF_IOCTL_SYNC)")
    let result = body(UnsafeRawBufferPointer(mapping.bytes))
    try check(ph_dmabuf_end_read(fd.raw), "ioctl(DMA_BUF_IOCTL_SYNC)")
    return result
  }
}
