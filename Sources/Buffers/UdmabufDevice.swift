import CLinux
import Glibc
import GuestMemory
import Linux

/// /dev/udmabuf: wraps pages of memfds in a dma-buf (linux/udmabuf.h).
public final class UdmabufDevice {
  /// What the module's parameters allow.
  public struct Limits: Equatable, Sendable {
    /// Pieces in one buffer, `list_limit`.
    public var entries: Int
    /// Bytes in one buffer, `size_limit_mb`.
    public var bytes: UInt64

    /// Sets both.
    public init(entries: Int, bytes: UInt64) {
      self.entries = entries
      self.bytes = bytes
    }

    /// What the module starts with.
    public static let usual = Limits(entries: 1024, bytes: 64 << 20)

    /// Reads /sys/module/udmabuf/parameters; what cannot be read is as usual.
    public static func read() -> Limits {
      let folder = "/sys/module/udmabuf/parameters/"
      let megabytes = number(in: folder + "size_limit_mb").map { UInt64($0) << 20 }
      return Limits(
        entries: number(in: folder + "list_limit") ?? usual.entries,
        bytes: megabytes ?? usual.bytes)
    }

    private static func number(in path: String) -> Int? {
      do throws(Errno) {
        let file = try OwnedFD.open(path, O_RDONLY)
        return withUnsafeTemporaryAllocation(byteCount: 32, alignment: 1) { text in
          let count = Glibc.read(file.raw, text.baseAddress, text.count)
          guard count > 0 else { return nil }
          let digits = text.prefix(count).prefix { $0 != 10 }
          guard let value = Int(String(decoding: digits, as: UTF8.self)) else { return nil }
          return value >= 0 && value < 1 << 40 ? value : nil
        }
      } catch { return nil }
    }
  }

  /// What it allows, read when it was opened.
  public let limits: Limits
  private let fd: OwnedFD
  /// Makes the dma-bufs instead of the kernel, where it has no such device.
  package var substitute: (([FileRange]) throws(Errno) -> OwnedFD)?

  /// Takes over an open /dev/udmabuf.
  public init(adopting fd: consuming OwnedFD, limits: Limits = .read()) {
    self.fd = fd
    self.limits = limits
  }

  /// Opens the device; do so before a sandbox or a cgroup takes it away.
  ///
  /// - Throws: ``CopyReason/noDevice`` or ``CopyReason/noAccess(_:)``.
  public static func open(_ path: String = "/dev/udmabuf") throws(CopyReason) -> UdmabufDevice {
    do throws(Errno) {
      let fd = try OwnedFD.open(path, O_RDWR)
      // An empty list is never accepted; the error tells whether it is a udmabuf at all.
      let answer = ph_udmabuf_create(fd.raw, nil, 0)
      guard answer == -EINVAL else { throw Errno(-answer, "ioctl(UDMABUF_CREATE_LIST)") }
      return UdmabufDevice(adopting: fd)
    } catch {
      let absent = [ENOENT, ENODEV, ENXIO].contains(error.code)
      throw absent ? .noDevice : .noAccess(error)
    }
  }

  /// Makes a dma-buf over pages of memfds (`UDMABUF_CREATE_LIST`).
  ///
  /// - Parameter items: whole pages, in the order of the buffer; holes among them are filled.
  /// - Throws: `EINVAL` for what breaks its rules or limits, `ENOMEM` and others.
  public func create(_ items: [FileRange]) throws(Errno) -> OwnedFD {
    if let substitute { return try substitute(items) }
    let list = items.map {
      ph_udmabuf_item(memfd: $0.file.fd.raw, reserved: 0, offset: $0.offset, size: $0.count)
    }
    return OwnedFD(
      adopting: try check(
        ph_udmabuf_create(fd.raw, list, UInt32(list.count)), "ioctl(UDMABUF_CREATE_LIST)"))
  }
}
