import Buffers
import GuestMemory

/// What facts about a machine mean for a guest's pictures.
struct DoctorReport {
  /// How good a finding is.
  enum Mark: String {
    /// As it should be.
    case good = "ok  "
    /// It works, and could be better.
    case advice = "note"
    /// It stands in the way of zero-copy.
    case bad = "MISS"
  }

  /// One line.
  struct Line {
    var mark: Mark
    var subject: String
    var text: String
  }

  private(set) var lines: [Line] = []
  /// Whether a guest's pages can be shown without copying.
  private(set) var isDirect: Bool
  /// What a guest would get, and how to get a better one.
  private(set) var verdict: String

  /// Judges facts; looks at nothing else.
  init(_ facts: DoctorFacts) {
    let problems = Self.problems(facts)
    isDirect = problems.isEmpty
    if let first = problems.first {
      verdict =
        "copy: \(first.why). To get direct mode: "
        + problems.map(\.cure).joined(separator: "; and ")
    } else {
      verdict =
        "direct: a guest in a sealed memfd (memory-backend-memfd,share=on) is shown "
        + "without copying"
    }
    lines = [
      Self.kernel(facts), Self.udmabuf(facts), Self.entries(facts), Self.bytes(facts),
      Self.userfaultfd(facts), Self.detector(facts), Self.memfd(facts), Self.landlock(facts),
      Self.seccomp(facts), Self.qemu(facts), Self.libvirt(facts),
    ].compactMap { $0 }
  }

  /// For standard output.
  var text: String {
    lines.map { "\($0.mark.rawValue)  \($0.subject): \($0.text)\n" }.joined()
      + "A guest would get \(verdict).\n"
  }

  /// What stands in the way of zero-copy, with what to do about it.
  private static func problems(_ facts: DoctorFacts) -> [(why: String, cure: String)] {
    var found: [(why: String, cure: String)] = []
    if let problem = facts.udmabufProblem {
      if let device = facts.udmabuf, case .noAccess = problem {
        let why =
          device.opens
          ? "/dev/udmabuf is no udmabuf" : "this user may not open /dev/udmabuf (\(device.rights))"
        found.append((why, device.opens ? "remove it and load the module udmabuf" : device.advice))
      } else {
        found.append(
          (
            "there is no /dev/udmabuf",
            "modprobe udmabuf, or a kernel with CONFIG_UDMABUF (Debian 13, Ubuntu 24.04)"
          ))
      }
    }
    if case .failure(let error) = facts.detector {
      found.append(("discards would go unnoticed", witnessCure(error, facts)))
    }
    if !facts.sealsMemfds {
      found.append(("memfds cannot be sealed", "a kernel with CONFIG_MEMFD_CREATE"))
    }
    return found
  }

  private static func witnessCure(_ error: WitnessError, _ facts: DoctorFacts) -> String {
    guard case .userfaultfdDenied = error else { return "\(error)" }
    if let device = facts.userfaultfd, !device.opens { return "\(error); \(device.advice)" }
    return "\(error)"
  }

  private static func kernel(_ facts: DoctorFacts) -> Line {
    let numbers = facts.kernel.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    let isOld = numbers.count == 2 && (numbers[0], numbers[1]) < (6, 12)
    return Line(
      mark: isOld ? .advice : .good, subject: "kernel",
      text: facts.kernel
        + (isOld ? ", older than any that Pinhole is tested on: 6.12 or later is best" : ""))
  }

  private static func udmabuf(_ facts: DoctorFacts) -> Line {
    let rights = facts.udmabuf.map { ", \($0.rights)" } ?? ""
    guard let problem = facts.udmabufProblem else {
      return Line(mark: .good, subject: "/dev/udmabuf", text: "usable" + rights)
    }
    return Line(mark: .bad, subject: "/dev/udmabuf", text: "\(problem)" + rights)
  }

  /// A scattered 1920x1080 picture has 2025 pages.
  private static func entries(_ facts: DoctorFacts) -> Line? {
    guard facts.udmabuf != nil else { return nil }
    let count = facts.limits.entries
    guard count < 2048 else {
      return Line(mark: .good, subject: "udmabuf list_limit", text: "\(count) pieces a buffer")
    }
    return Line(
      mark: .advice, subject: "udmabuf list_limit",
      text: "\(count) pieces a buffer; a 4K picture in scattered pages has 8100 and would be "
        + "copied: echo 8192 > /sys/module/udmabuf/parameters/list_limit")
  }

  /// An 8K picture has 127 MiB, a 4K one 32.
  private static func bytes(_ facts: DoctorFacts) -> Line? {
    guard facts.udmabuf != nil else { return nil }
    let megabytes = facts.limits.bytes >> 20
    guard megabytes < 32 else {
      return Line(
        mark: .good, subject: "udmabuf size_limit_mb",
        text: "\(megabytes)" + (megabytes < 128 ? ", enough for 4K; 8K needs 128" : ""))
    }
    return Line(
      mark: .advice, subject: "udmabuf size_limit_mb",
      text: "\(megabytes); larger pictures are copied: "
        + "echo 128 > /sys/module/udmabuf/parameters/size_limit_mb")
  }

  private static func userfaultfd(_ facts: DoctorFacts) -> Line {
    if case .failure(let error) = facts.detector {
      return Line(mark: .bad, subject: "userfaultfd", text: "\(error)")
    }
    let way = facts.userfaultfd?.opens == true ? "/dev/userfaultfd" : "the system call"
    return Line(
      mark: .good, subject: "userfaultfd", text: "usable through \(way), with MINOR_SHMEM")
  }

  private static func detector(_ facts: DoctorFacts) -> Line? {
    guard case .success(let best) = facts.detector else { return nil }
    let usable = facts.detectors.map(\.rawValue).joined(separator: ", ")
    let gate =
      facts.timesAreExact ? "; unchanged file times spare most scans" : "; file times are coarse"
    return Line(
      mark: best == .scan ? .good : .advice, subject: "detector",
      text: "\(best) of \(usable)" + gate
        + (best == .scan ? "" : "; Linux 6.7 or later has PAGEMAP_SCAN, which is faster"))
  }

  private static func memfd(_ facts: DoctorFacts) -> Line {
    Line(
      mark: facts.sealsMemfds ? .good : .bad, subject: "memfd",
      text: facts.sealsMemfds ? "can be sealed" : "cannot be made or sealed")
  }

  private static func landlock(_ facts: DoctorFacts) -> Line {
    if let abi = facts.landlock {
      return Line(mark: .good, subject: "Landlock", text: "ABI \(abi)")
    }
    return Line(
      mark: .advice, subject: "Landlock",
      text: "none: the sandbox does without; add landlock to the kernel's lsm= list")
  }

  private static func seccomp(_ facts: DoctorFacts) -> Line {
    if facts.filtersCalls { return Line(mark: .good, subject: "seccomp", text: "filters work") }
    return Line(
      mark: .advice, subject: "seccomp",
      text: "none: pinhole starts only with --sandbox off (CONFIG_SECCOMP_FILTER)")
  }

  private static func qemu(_ facts: DoctorFacts) -> Line {
    guard let qemu = facts.qemu else {
      return Line(mark: .advice, subject: "QEMU", text: "not found; 10.0 or later is best")
    }
    let version = "\(qemu.program) \(qemu.major).\(qemu.minor)"
    if qemu.major >= 10 { return Line(mark: .good, subject: "QEMU", text: version) }
    return Line(
      mark: .advice, subject: "QEMU",
      text: version
        + (qemu.major < 8 || qemu.major == 8 && qemu.minor < 2
          ? ": refuses vhost-user GPUs without KVM; 10.0 or later is best"
          : ": not tested; 10.0 or later is best"))
  }

  private static func libvirt(_ facts: DoctorFacts) -> Line {
    switch facts.descriptor {
    case .installed(let path):
      return Line(mark: .good, subject: "libvirt", text: "finds Pinhole in \(path)")
    case .elsewhere(let path):
      return Line(
        mark: .advice, subject: "libvirt",
        text: "does not look at \(path): link it into /etc/qemu/vhost-user")
    case .missing:
      return Line(
        mark: .advice, subject: "libvirt",
        text: "has no descriptor of Pinhole: make install PREFIX=/usr puts one in place")
    }
  }
}
