import CLinux
import Glibc
import Linux

/// Tells how many hold a dma-buf beside this process.
///
/// `count:` in a dma-buf's /proc/PID/fdinfo/N (drivers/dma-buf/dma-buf.c, `dma_buf_show_fdinfo`) is
/// the number of its references: descriptors in any process or in messages that nobody has read,
/// mappings, and imports by devices. A sandbox without files cannot open that file later, so it is
/// opened once, for one number of a descriptor, onto which the dma-buf in question is put
/// (dup3(2)); what is read is about whatever has that number.
public final class DmaBufHolders {
  private let nothing: OwnedFD
  private let place: OwnedFD
  private let facts: OwnedFD
  /// The caller's descriptor, and the one at `place`.
  private static let ours = 2

  /// Opens it, before a sandbox.
  ///
  /// - Throws: `ENOENT` without /proc, and others of open(2).
  public init() throws(Errno) {
    nothing = OwnedFD(adopting: try check(ph_eventfd(0), "eventfd"))
    place = try nothing.duplicate()
    facts = try OwnedFD.open("/proc/self/fdinfo/\(place.raw)", O_RDONLY)
  }

  /// References beside the caller's only descriptor; nil where the kernel does not tell.
  public func others(of dmaBuf: CInt) -> Int? {
    guard ph_duplicate_onto(dmaBuf, place.raw) >= 0 else { return nil }
    defer { _ = ph_duplicate_onto(nothing.raw, place.raw) }
    let text = withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 1) { bytes in
      let count = pread(facts.raw, bytes.baseAddress, bytes.count, 0)
      return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    }
    // The first such line: a name that somebody gave the dma-buf comes behind it.
    guard let line = text.split(separator: "\n").first(where: { $0.hasPrefix("count:") }),
      let count = Int(line.dropFirst(6).drop { $0 == "\t" || $0 == " " })
    else { return nil }
    return max(0, count - Self.ours)
  }
}
