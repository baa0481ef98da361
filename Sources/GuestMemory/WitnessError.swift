import Linux

/// How discarded pages are noticed.
public enum Detector: String, CaseIterable, Sendable {
  /// `PAGEMAP_SCAN` over the witness: Linux 6.7 and later.
  case scan
  /// Entries of /proc/self/pagemap: any kernel with /proc.
  case pagemap
  /// Touching every page and counting userfaultfd events: no /proc needed.
  case faults
}

/// Why pages cannot be witnessed.
public enum WitnessError: Error, CustomStringConvertible, Sendable {
  /// The kernel was built without userfaultfd(2).
  case noUserfaultfd(Errno)
  /// This process may not open a userfaultfd.
  case userfaultfdDenied(Errno)
  /// The kernel's userfaultfd lacks something.
  case missingFeature(String)
  /// /proc/self/pagemap cannot be opened.
  case noPageMap(Errno)
  /// The kernel has no `PAGEMAP_SCAN`.
  case noPageMapScan(Errno)
  /// The listener's thread or descriptors could not be made.
  case listener(Errno)
  /// The file cannot be mapped a second time.
  case mapping(Errno)
  /// The file is not shared memory, or was opened read-only.
  case notWatchable(Errno)
  /// The file could shrink under a touch, which would kill the process.
  case noShrinkSeal
  /// The range passes the end of the file.
  case outside(PageSpan)
  /// A page is a hole: fill it and try again.
  case hole(offset: UInt64)
  /// A hole could not be filled.
  case filling(offset: UInt64, Errno)
  /// A page could not be mapped.
  case arming(offset: UInt64, Errno)
  /// A page broke: the machine's memory failed there (memory-failure in the kernel's log).
  case broken
  /// The page tables could not be read.
  case scanning(Errno)

  /// What failed and what the operator can do.
  public var description: String {
    switch self {
    case .noUserfaultfd(let e):
      return "the kernel has no userfaultfd (\(e)): it needs CONFIG_USERFAULTFD"
    case .userfaultfdDenied(let e):
      return "userfaultfd is not permitted (\(e)): give this user access to /dev/userfaultfd, "
        + "or leave the userfaultfd system call open in the sandbox"
    case .missingFeature(let name):
      return "userfaultfd lacks \(name): Linux 5.14 or later is needed"
    case .noPageMap(let e):
      return "cannot open /proc/self/pagemap (\(e)): mount /proc, or use --detector faults"
    case .noPageMapScan(let e):
      return "the kernel has no PAGEMAP_SCAN (\(e)): Linux 6.7 or later is needed, "
        + "or --detector pagemap"
    case .listener(let e): return "cannot start the userfaultfd listener: \(e)"
    case .mapping(let e): return "cannot map guest memory a second time: \(e)"
    case .notWatchable(let e):
      return "guest memory cannot be watched (\(e)): it must be a memfd that is open for writing "
        + "and not write-sealed, in no other userfaultfd"
    case .noShrinkSeal:
      return "guest memory has no F_SEAL_SHRINK, which --detector faults needs: "
        + "use memory-backend-memfd with seal=on"
    case .outside(let span): return "pages at \(span.offset)+\(span.count) are not in the file"
    case .hole(let offset): return "the page at file offset \(offset) is a hole"
    case .filling(let offset, let e):
      return "cannot fill the hole at file offset \(offset): \(e)"
    case .arming(let offset, let e): return "cannot map the page at file offset \(offset): \(e)"
    case .broken:
      return "a page of guest memory is broken or cannot be had: the kernel's log tells of memory "
        + "to be replaced, /proc/meminfo of huge pages that have run out"
    case .scanning(let e): return "cannot read the page tables of guest memory: \(e)"
    }
  }
}
