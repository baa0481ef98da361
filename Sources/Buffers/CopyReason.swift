import Glibc
import GuestMemory
import Linux

/// Why a picture is copied instead of shown in the guest's own pages.
public enum CopyReason: Error, Sendable {
  /// There is no /dev/udmabuf.
  case noDevice
  /// /dev/udmabuf cannot be opened, or is something else.
  case noAccess(Errno)
  /// Discards of guest pages cannot be noticed.
  case witnessUnavailable(WitnessError)
  /// Guest memory is not a memfd.
  case notMemfd
  /// The memfd has no `F_SEAL_SHRINK`.
  case noShrinkSeal
  /// The memfd is sealed against writing, which udmabuf refuses.
  case writeSealed
  /// The picture does not begin in the first page of its memory.
  case unalignedStart(offset: UInt64)
  /// A piece of the picture does not begin at a page.
  case unalignedEntry(offset: UInt64)
  /// A piece of the picture does not end at a page.
  case unalignedLength(count: UInt64)
  /// The pieces are shorter than the picture.
  case tooShort(bytes: UInt64, needed: UInt64)
  /// More pieces than udmabuf takes.
  case tooManyEntries(Int, limit: Int)
  /// More bytes than udmabuf takes.
  case tooLarge(bytes: UInt64, limit: UInt64)
  /// It would pin more guest memory than is allowed.
  case overPinBudget(bytes: UInt64, pinned: UInt64, budget: UInt64)
  /// So many dma-bufs were taken back and are still held by others.
  case notLetGo(Int)
  /// Pages were discarded faster than the buffer could be built.
  case discardsOutran
  /// The kernel refused.
  case failed(Errno)

  /// The reason without its details, for counting.
  public enum Kind: Int, CaseIterable, Sendable {
    /// As the cases of ``CopyReason``.
    case noDevice, noAccess, witnessUnavailable, notMemfd, noShrinkSeal, writeSealed
    /// As the cases of ``CopyReason``.
    case unalignedStart, unalignedEntry, unalignedLength, tooShort, tooManyEntries, tooLarge
    /// As the cases of ``CopyReason``.
    case overPinBudget, notLetGo, discardsOutran, failed

    /// For statistics, such as `too-many-entries`.
    public var name: String {
      var name = ""
      for letter in "\(self)" {
        if letter.isUppercase { name += "-" }
        name += letter.lowercased()
      }
      return name
    }

    /// In a few words, without what helps.
    public var explanation: String {
      switch self {
      case .noDevice: "there is no /dev/udmabuf"
      case .noAccess: "/dev/udmabuf may not be opened"
      case .witnessUnavailable: "discards cannot be noticed"
      case .notMemfd: "guest memory is no memfd"
      case .noShrinkSeal: "guest memory has no F_SEAL_SHRINK"
      case .writeSealed: "guest memory is sealed against writing"
      case .unalignedStart, .unalignedEntry, .unalignedLength: "the picture is not in whole pages"
      case .tooShort: "the guest gave too little memory"
      case .tooManyEntries: "more pieces than udmabuf's list_limit"
      case .tooLarge: "more bytes than udmabuf's size_limit_mb"
      case .overPinBudget: "over --max-pinned"
      case .notLetGo: "consumers keep buffers that were taken back"
      case .discardsOutran: "discards come faster than rebuilds"
      case .failed: "the kernel refused"
      }
    }
  }

  /// It may have passed a moment later.
  public var isTransient: Bool {
    switch self {
    case .discardsOutran, .overPinBudget, .notLetGo: true
    case .failed(let errno): [EMFILE, ENFILE, ENOMEM].contains(errno.code)
    default: false
    }
  }

  /// The reason without its details.
  public var kind: Kind {
    switch self {
    case .noDevice: .noDevice
    case .noAccess: .noAccess
    case .witnessUnavailable: .witnessUnavailable
    case .notMemfd: .notMemfd
    case .noShrinkSeal: .noShrinkSeal
    case .writeSealed: .writeSealed
    case .unalignedStart: .unalignedStart
    case .unalignedEntry: .unalignedEntry
    case .unalignedLength: .unalignedLength
    case .tooShort: .tooShort
    case .tooManyEntries: .tooManyEntries
    case .tooLarge: .tooLarge
    case .overPinBudget: .overPinBudget
    case .notLetGo: .notLetGo
    case .discardsOutran: .discardsOutran
    case .failed: .failed
    }
  }
}

extension CopyReason: CustomStringConvertible {
  /// What is in the way and what the operator can do.
  public var description: String {
    switch self {
    case .noDevice:
      return "there is no /dev/udmabuf: load the module udmabuf, or use a kernel with "
        + "CONFIG_UDMABUF (Debian 13, Ubuntu 24.04)"
    case .noAccess(let e):
      return "/dev/udmabuf cannot be used (\(e)): give this user access, for instance through "
        + "the group kvm, and allow the device in the VM's cgroup"
    case .witnessUnavailable(let e): return "discards of guest pages would go unnoticed: \(e)"
    case .notMemfd:
      return "guest memory is not a memfd: use -object memory-backend-memfd,share=on"
    case .noShrinkSeal:
      return "guest memory has no F_SEAL_SHRINK: use memory-backend-memfd with seal=on"
    case .writeSealed:
      return "guest memory is sealed against writing, which udmabuf refuses"
    case .unalignedStart(let offset):
      return "the picture begins \(offset) bytes into its memory, not in the first page"
    case .unalignedEntry(let offset):
      return "a piece of the picture begins at file offset \(offset), inside a page: "
        + "the guest's driver does not align its buffers"
    case .unalignedLength(let count):
      return "a piece of the picture is \(count) bytes long, not whole pages: "
        + "the guest's driver does not align its buffers"
    case .tooShort(let bytes, let needed):
      return "the guest gave \(bytes) bytes of memory to a picture of \(needed)"
    case .tooManyEntries(let count, let limit):
      return "the picture has \(count) pieces and udmabuf takes \(limit): raise "
        + "/sys/module/udmabuf/parameters/list_limit"
    case .tooLarge(let bytes, let limit):
      return "the picture has \(bytes) bytes and udmabuf takes \(limit): raise "
        + "/sys/module/udmabuf/parameters/size_limit_mb"
    case .overPinBudget(let bytes, let pinned, let budget):
      return "\(bytes) more bytes would pass the pin budget: \(pinned) of \(budget) are pinned"
    case .notLetGo(let count):
      return "\(count) buffers that were taken back are still held by programs that were shown them"
    case .discardsOutran:
      return "guest pages were discarded each time the buffer was built: the balloon or virtio-mem "
        + "takes memory that the guest shows"
    case .failed(let e): return "the kernel refused: \(e)"
    }
  }
}
