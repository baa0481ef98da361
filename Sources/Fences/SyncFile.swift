import CLinux
import Glibc
import Linux

/// A sync_file: a fence of a GPU or display controller as a descriptor (linux/sync_file.h).
public struct SyncFile: ~Copyable {
  /// The descriptor; readable once the fence has signalled.
  public let fd: OwnedFD

  /// Takes over a descriptor that may be anything.
  ///
  /// - Throws: `ENOTTY` and others when it is no sync_file.
  public init(checking fd: consuming OwnedFD) throws(Errno) {
    guard Foreign.isAnonymous(fd.raw) else { throw Errno(ENOTTY, "statx") }
    var status: CInt = 0
    try check(ph_sync_file_status(fd.raw, &status), "ioctl(SYNC_IOC_FILE_INFO)")
    self.fd = fd.vouchedFor()
  }

  /// Takes over a descriptor that is known to be a sync_file.
  init(adopting fd: consuming OwnedFD) { self.fd = fd }

  /// Gives the descriptor to another owner.
  public consuming func intoFD() -> OwnedFD { fd }

  /// Whether the fence has signalled, with or without an error.
  public var isSignalled: Bool { Self.isSignalled(fd.raw) }

  /// Whether a sync_file of somebody else's has signalled.
  public static func isSignalled(_ fd: CInt) -> Bool { ph_poll_now(fd, Int16(POLLIN)) != 0 }

  /// A fence that signals after both (`SYNC_IOC_MERGE`).
  public static func merge(
    _ a: borrowing SyncFile, _ b: borrowing SyncFile
  ) throws(Errno) -> SyncFile {
    SyncFile(
      adopting: OwnedFD(
        adopting: try check(ph_sync_file_merge(a.fd.raw, b.fd.raw), "ioctl(SYNC_IOC_MERGE)")))
  }
}

/// The fences that the kernel keeps with a dma-buf for implicit synchronization.
public enum DmaBufFences {
  /// Whether nobody reads or writes the buffer: one poll(2), without waiting.
  public static func isIdle(_ fd: CInt) -> Bool { ph_poll_now(fd, Int16(POLLOUT)) != 0 }

  /// A fence that signals when all present readers and writers are done
  /// (`DMA_BUF_IOCTL_EXPORT_SYNC_FILE`, Linux 6.0).
  public static func users(of fd: CInt) throws(Errno) -> SyncFile {
    SyncFile(
      adopting: OwnedFD(
        adopting: try check(
          ph_dmabuf_export_sync_file(fd, 1), "ioctl(DMA_BUF_IOCTL_EXPORT_SYNC_FILE)")))
  }

  /// Makes implicit readers of a buffer wait for a fence (`DMA_BUF_IOCTL_IMPORT_SYNC_FILE`).
  public static func add(writer fence: CInt, to fd: CInt) throws(Errno) {
    try check(
      ph_dmabuf_import_sync_file(fd, fence, 1), "ioctl(DMA_BUF_IOCTL_IMPORT_SYNC_FILE)")
  }
}
