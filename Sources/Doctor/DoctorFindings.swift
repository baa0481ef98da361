import Buffers
import Daemon
import GuestMemory
import QEMUDisplay

// One finding each. Whatever is not as it should be says what to type.
extension DoctorReport {
  static func kernel(_ facts: DoctorFacts) -> Line {
    let numbers = facts.kernel.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
    guard numbers.count == 2, (numbers[0], numbers[1]) < (6, 12) else {
      return Line(mark: .good, subject: "kernel", text: facts.kernel)
    }
    return Line(
      mark: .advice, subject: "kernel",
      text: facts.kernel + ", older than any that Pinhole is tested on",
      cure: Cure.kernel("Linux 6.12 or later"))
  }

  static func udmabuf(_ facts: DoctorFacts) -> Line {
    let rights = facts.udmabuf.map { ", \($0.rights)" } ?? ""
    guard let problem = facts.udmabufProblem else {
      return Line(mark: .good, subject: "/dev/udmabuf", text: "usable" + rights)
    }
    let (why, cure) = udmabufProblem(problem, facts)
    return Line(mark: .bad, subject: "/dev/udmabuf", text: why, cure: cure)
  }

  /// A scattered 1920x1080 picture has 2025 pages.
  static func entries(_ facts: DoctorFacts) -> Line? {
    guard facts.udmabuf != nil else { return nil }
    let count = facts.limits.entries
    guard count < 2048 else {
      return Line(mark: .good, subject: "udmabuf list_limit", text: "\(count) pieces a buffer")
    }
    return Line(
      mark: .advice, subject: "udmabuf list_limit",
      text: "\(count) pieces a buffer; a 4K picture in scattered pages has 8100 and would be "
        + "copied",
      cure: "echo 8192 > /sys/module/udmabuf/parameters/list_limit")
  }

  /// An 8K picture has 127 MiB, a 4K one 32.
  static func bytes(_ facts: DoctorFacts) -> Line? {
    guard facts.udmabuf != nil else { return nil }
    let megabytes = facts.limits.bytes >> 20
    guard megabytes < 32 else {
      return Line(
        mark: .good, subject: "udmabuf size_limit_mb",
        text: "\(megabytes)" + (megabytes < 128 ? ", enough for 4K; 8K needs 128" : ""))
    }
    return Line(
      mark: .advice, subject: "udmabuf size_limit_mb",
      text: "\(megabytes); larger pictures are copied",
      cure: "echo 128 > /sys/module/udmabuf/parameters/size_limit_mb")
  }

  static func userfaultfd(_ facts: DoctorFacts) -> Line {
    if case .failure(let error) = facts.detector {
      return Line(
        mark: .bad, subject: "userfaultfd", text: "discards would go unnoticed: \(error)",
        cure: Cure.witness(error, facts.userfaultfd))
    }
    let way = facts.userfaultfd?.opens == true ? "/dev/userfaultfd" : "the system call"
    return Line(
      mark: .good, subject: "userfaultfd", text: "usable through \(way), with MINOR_SHMEM")
  }

  static func detector(_ facts: DoctorFacts) -> Line? {
    guard case .success(let best) = facts.detector else { return nil }
    let usable = facts.detectors.map(\.rawValue).joined(separator: ", ")
    let gate =
      facts.timesAreExact ? "; unchanged file times spare most scans" : "; file times are coarse"
    guard best != .scan else {
      return Line(mark: .good, subject: "detector", text: "\(best) of \(usable)" + gate)
    }
    return Line(
      mark: .advice, subject: "detector",
      text: "\(best) of \(usable)" + gate + "; PAGEMAP_SCAN would be faster",
      cure: Cure.kernel("Linux 6.7 or later"))
  }

  static func memfd(_ facts: DoctorFacts) -> Line {
    if facts.sealsMemfds { return Line(mark: .good, subject: "memfd", text: "can be sealed") }
    return Line(
      mark: .bad, subject: "memfd", text: "cannot be made or sealed", cure: Cure.memfd)
  }

  static func landlock(_ facts: DoctorFacts) -> Line {
    if let abi = facts.landlock {
      return Line(mark: .good, subject: "Landlock", text: "ABI \(abi)")
    }
    return Line(
      mark: .advice, subject: "Landlock", text: "none: the sandbox does without",
      cure: Cure.landlock)
  }

  static func seccomp(_ facts: DoctorFacts) -> Line {
    if facts.filtersCalls { return Line(mark: .good, subject: "seccomp", text: "filters work") }
    return Line(
      mark: .advice, subject: "seccomp",
      text: "none: system calls cannot be filtered, and serve starts with --sandbox off alone",
      cure: Cure.kernel("a kernel with CONFIG_SECCOMP_FILTER"))
  }

  static func socket(_ facts: DoctorFacts) -> Line? {
    guard facts.sendBuffer > 0 else { return nil }
    let size = "\(facts.sendBuffer >> 10) KiB may wait in QEMU's display socket"
    if facts.sendBuffer >= 2 * Int(QEMUDisplay.sendBuffer) {
      return Line(mark: .good, subject: "socket", text: size)
    }
    return Line(
      mark: .advice, subject: "socket",
      text: size + "; with more, copied pictures go in one piece, for less processor time",
      cure: "sysctl -w net.core.wmem_max=\(QEMUDisplay.sendBuffer)")
  }

  static func qemu(_ facts: DoctorFacts) -> Line {
    let cure =
      "apt install -t bookworm-backports qemu-system-x86   # without -t on others than Debian 12"
    guard let qemu = facts.qemu else {
      return Line(
        mark: .advice, subject: "QEMU", text: "not found; 10.0 or later is best", cure: cure)
    }
    let version = "\(qemu.program) \(qemu.major).\(qemu.minor)"
    if qemu.major >= 10 { return Line(mark: .good, subject: "QEMU", text: version) }
    let isOld = qemu.major < 8 || qemu.major == 8 && qemu.minor < 2
    return Line(
      mark: .advice, subject: "QEMU",
      text: version
        + (isOld ? ": refuses vhost-user GPUs without KVM" : ": not tested")
        + "; 10.0 or later is best",
      cure: cure)
  }

  static func libvirt(_ facts: DoctorFacts) -> Line {
    switch facts.descriptor {
    case .installed(let path):
      return Line(mark: .good, subject: "libvirt", text: "finds Pinhole in \(path)")
    case .elsewhere(let path):
      return Line(
        mark: .advice, subject: "libvirt", text: "does not look at \(path)",
        cure: "mkdir -p /etc/qemu/vhost-user; ln -s \(Cure.word(path)) /etc/qemu/vhost-user/")
    case .missing:
      return Line(
        mark: .advice, subject: "libvirt", text: "has no descriptor of Pinhole",
        cure: "make install PREFIX=/usr   # in Pinhole's source; or install the package pinhole")
    }
  }

  /// Where AppArmor confines libvirtd.
  static func confinement(_ facts: DoctorFacts) -> Line? {
    switch facts.confinement {
    case .none: return nil
    case .allows(let profile):
      return Line(
        mark: .good, subject: "AppArmor", text: "lets libvirt start Pinhole (\(profile))")
    case .denies(let profile, let binary):
      let name = profile.split(separator: "/").last.map(String.init) ?? profile
      return Line(
        mark: .advice, subject: "AppArmor",
        text: "lets libvirt start programs in /usr/bin alone, and not \(binary)",
        cure: "echo \(Cure.word("\(binary) PUx,")) >> /etc/apparmor.d/local/\(Cure.word(name)); "
          + "apparmor_parser -r \(Cure.word(profile))")
    }
  }

  static func rendering(_ facts: DoctorFacts) -> Line {
    switch facts.renderer {
    case .works(let place, isRecent: true):
      return Line(mark: .good, subject: "3D", text: "serve --3d draws on \(place)")
    case .works(let place, isRecent: false):
      return Line(
        mark: .advice, subject: "3D",
        text: "serve --3d draws on \(place), by a libvirglrenderer older than 1.1.0, which lacks "
          + "fixes of memory errors that guests can cause in the renderer",
        cure:
          "apt policy libvirglrenderer1   # 1.1.0 or later comes with Debian 13; until then give "
          + "--3d to guests that you trust")
    case .missing(let why):
      return Line(
        mark: .advice, subject: "3D", text: "serve --3d would have none: \(why)",
        cure: "apt install libvirglrenderer1 libegl-mesa0   # and the package pinhole-renderer, "
          + "where Pinhole comes in packages")
    }
  }
}
