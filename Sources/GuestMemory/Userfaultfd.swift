import CLinux
import Glibc
import Linux

/// A userfaultfd(2) for faults in user mode, which needs no privilege where it is permitted.
final class Userfaultfd: Sendable {
  struct Features: OptionSet {
    let rawValue: UInt64
    static let eventRemove = Features(rawValue: ph_UFFD_EVENT_REMOVE)
    static let missingHugetlb = Features(rawValue: ph_UFFD_MISSING_HUGETLBFS)
    static let missingShmem = Features(rawValue: ph_UFFD_MISSING_SHMEM)
    static let minorHugetlb = Features(rawValue: ph_UFFD_MINOR_HUGETLBFS)
    static let minorShmem = Features(rawValue: ph_UFFD_MINOR_SHMEM)
    /// Never EVENT_UNMAP: it would make each munmap of ours wait for the listener.
    static let wanted: Features = [
      .eventRemove, .missingHugetlb, .missingShmem, .minorHugetlb, .minorShmem,
    ]
  }

  /// Which accesses of a registered range are reported.
  struct Mode: OptionSet {
    let rawValue: UInt64
    /// To a hole of the file.
    static let missing = Mode(rawValue: ph_UFFD_MODE_MISSING)
    /// To a page that the file has and this mapping has not.
    static let minor = Mode(rawValue: ph_UFFD_MODE_MINOR)
  }

  let fd: OwnedFD
  let features: Features

  /// Opens one through /dev/userfaultfd if that is given, else through the system call.
  init(device: borrowing OwnedFD?) throws(WitnessError) {
    // The features are known only after UFFDIO_API, which is good for once: ask one, keep another.
    let probe = try Self.open(device)
    var available: UInt64 = 0
    let r = ph_uffd_api(probe.raw, 0, &available)
    guard r >= 0 else { throw .noUserfaultfd(Errno(-r, "ioctl(UFFDIO_API)")) }
    let features = Features(rawValue: available).intersection(.wanted)
    guard features.contains(.minorShmem) else { throw .missingFeature("MINOR_SHMEM") }
    let fd = try Self.open(device)
    var ignored: UInt64 = 0
    let set = ph_uffd_api(fd.raw, features.rawValue, &ignored)
    guard set >= 0 else { throw .noUserfaultfd(Errno(-set, "ioctl(UFFDIO_API)")) }
    self.fd = fd
    self.features = features
  }

  private static func open(_ device: borrowing OwnedFD?) throws(WitnessError) -> OwnedFD {
    var raw: CInt = -ENOSYS
    switch device {
    case .some(let device): raw = ph_uffd_from_device(device.raw)
    case .none: break
    }
    if raw < 0 { raw = ph_uffd_from_syscall() }
    guard raw >= 0 else {
      let error = Errno(-raw, "userfaultfd")
      throw error.code == ENOSYS ? .noUserfaultfd(error) : .userfaultfdDenied(error)
    }
    return OwnedFD(adopting: raw)
  }

  func register(_ start: UnsafeRawPointer, _ count: UInt64, _ mode: Mode) -> Errno? {
    failure(
      ph_uffd_register(fd.raw, UnsafeMutableRawPointer(mutating: start), count, mode.rawValue),
      "ioctl(UFFDIO_REGISTER)")
  }

  func unregister(_ start: UnsafeRawPointer, _ count: UInt64) {
    _ = ph_uffd_unregister(fd.raw, UnsafeMutableRawPointer(mutating: start), count)
  }

  private func failure(_ result: CInt, _ call: StaticString) -> Errno? {
    result < 0 ? Errno(-result, call) : nil
  }

  /// Maps pages that the file has; the number of bytes mapped, or -errno for the first page.
  func map(_ start: UnsafeRawPointer, _ count: UInt64) -> Int64 {
    ph_uffd_continue(fd.raw, UnsafeMutableRawPointer(mutating: start), count)
  }
}
