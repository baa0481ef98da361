import Glibc
import Linux

extension GuestFile {
  /// What the file is and what follows from it, for the log: one line without its size.
  ///
  /// QEMU shares only memory that is a file, so anonymous memory never comes here.
  public var summary: String {
    switch kind {
    case .memfd, .hugetlb: return "\(pages), \(consequence)"
    case .shmem:
      return "a file in shared memory (memory-backend-file on tmpfs), pictures are copied: "
        + "udmabuf takes memfds only, use memory-backend-memfd"
    case .other:
      return "a file on a disk, pictures are copied: udmabuf takes memfds only, use "
        + "memory-backend-memfd"
    }
  }

  private var pages: String {
    if kind == .hugetlb { return "a memfd of huge pages of \(pageSize >> 10) KiB" }
    // Whether huge pages are really used is the kernel's choice, page by page.
    return Self.hugeShmem ? "a memfd, perhaps with transparent huge pages" : "a memfd"
  }

  private var consequence: String {
    guard let seals, seals.contains(.shrink) else {
      return "pictures are copied: it has no F_SEAL_SHRINK, use seal=on"
    }
    return "sealed, fit for zero-copy"
  }

  /// Whether memfds may get transparent huge pages; asked before a sandbox closes /sys.
  static let hugeShmem: Bool = {
    do throws(Errno) {
      let file = try OwnedFD.open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDONLY)
      return withUnsafeTemporaryAllocation(byteCount: 128, alignment: 1) { text in
        let count = Glibc.read(file.raw, text.baseAddress, text.count)
        let choice = String(decoding: text.prefix(max(count, 0)), as: UTF8.self)
        return ["[always]", "[within_size]", "[force]"].contains { choice.contains($0) }
      }
    } catch { return false }
  }()
}
