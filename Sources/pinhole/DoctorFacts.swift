import Buffers
import CLinux
import FakeGuest
import Glibc
import GuestMemory
import Linux
import Sandbox

/// What `pinhole doctor` found out about a machine.
struct DoctorFacts {
  /// As uname(2) tells, such as `6.12.0-1-amd64`.
  var kernel: String
  /// The device and who may open it; nil where there is none.
  var udmabuf: DeviceAccess?
  /// Why it cannot be used, nil if it can.
  var udmabufProblem: CopyReason?
  /// Its module's limits.
  var limits: UdmabufDevice.Limits
  /// /dev/userfaultfd; nil where there is none.
  var userfaultfd: DeviceAccess?
  /// The detector that would be used, or why discards cannot be noticed.
  var detector: Result<Detector, WitnessError>
  /// Those that work here.
  var detectors: [Detector]
  /// Whether unchanged times of a memfd prove that nothing was discarded.
  var timesAreExact: Bool
  /// Whether a memfd can be made and sealed against shrinking.
  var sealsMemfds: Bool
  /// The version of Landlock's ABI.
  var landlock: Int?
  /// Whether there are seccomp filters.
  var filtersCalls: Bool
  /// QEMU's program and version, such as (10, 0); nil where none was found.
  var qemu: QEMU?
  /// Where libvirt finds Pinhole's descriptor, or where one lies that it does not look at.
  var descriptor: Descriptor

  /// A QEMU.
  struct QEMU: Equatable {
    var program: String
    var major: Int
    var minor: Int
  }

  /// Pinhole's descriptor for libvirt.
  enum Descriptor: Equatable {
    case installed(String)
    case elsewhere(String)
    case missing
  }

  /// Looks at this machine.
  static func here() -> DoctorFacts {
    var problem: CopyReason?
    do throws(CopyReason) { _ = try UdmabufDevice.open() } catch { problem = error }
    return DoctorFacts(
      kernel: release(), udmabuf: DeviceAccess("/dev/udmabuf"), udmabufProblem: problem,
      limits: .read(), userfaultfd: DeviceAccess("/dev/userfaultfd"), detector: detector(nil),
      detectors: Detector.allCases.filter { (try? detector($0).get()) != nil },
      timesAreExact: WitnessKeeper.timesAreExact, sealsMemfds: sealsMemfds(),
      landlock: Landlock.abi, filtersCalls: Sandbox.hasCallFilters, qemu: findQEMU(),
      descriptor: findDescriptor())
  }

  private static func detector(_ forced: Detector?) -> Result<Detector, WitnessError> {
    Result { () throws(WitnessError) in
      let device = try? WitnessKeeper.openDevice()
      return try WitnessKeeper(detector: forced, device: device, startsListener: false).detector
    }
  }

  private static func sealsMemfds() -> Bool {
    guard let fd = try? MemFD.create("doctor", size: pageSize, seals: [.shrink]) else {
      return false
    }
    return MemFD.seals(of: fd.raw)?.contains(.shrink) == true
  }

  private static func release() -> String {
    var names = utsname()
    guard uname(&names) == 0 else { return "unknown" }
    return text(&names.release)
  }

  private static func machine() -> String {
    var names = utsname()
    return uname(&names) == 0 ? text(&names.machine) : "x86_64"
  }

  private static func text<T>(_ characters: inout T) -> String {
    withUnsafeBytes(of: &characters) {
      String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
  }

  // libvirt looks into these alone: QEMU's data directory, the system's settings, the user's.
  private static func findDescriptor() -> Descriptor {
    var folders = ["/etc/qemu/vhost-user", "/usr/share/qemu/vhost-user"]
    if let home = getenv("XDG_CONFIG_HOME") {
      folders.append(String(cString: home) + "/qemu/vhost-user")
    } else if let home = getenv("HOME") {
      folders.append(String(cString: home) + "/.config/qemu/vhost-user")
    }
    for folder in folders {
      if let found = pinholeFile(in: folder) { return .installed(found) }
    }
    return pinholeFile(in: "/usr/local/share/qemu/vhost-user").map { .elsewhere($0) } ?? .missing
  }

  private static func pinholeFile(in folder: String) -> String? {
    guard let directory = opendir(folder) else { return nil }
    defer { closedir(directory) }
    while let entry = readdir(directory) {
      let name = text(&entry.pointee.d_name)
      if name.hasSuffix("pinhole.json") { return "\(folder)/\(name)" }
    }
    return nil
  }

  private static func findQEMU() -> QEMU? {
    for program in ["qemu-system-\(machine())", "/usr/libexec/qemu-kvm", "qemu-kvm"] {
      if let text = output(of: [program, "--version"]), let found = QEMU(program, said: text) {
        return found
      }
    }
    return nil
  }

  /// The first bytes that a program writes; nil if it cannot be started.
  private static func output(of arguments: [String]) -> String? {
    var ends: [CInt] = [-1, -1]
    guard pipe(&ends) == 0 else { return nil }
    let reader = OwnedFD(adopting: ends[0])
    let writer = OwnedFD(adopting: ends[1])
    for fd in ends { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
    guard let child = try? ChildProcess(arguments, fds: [(writer.raw, 1)]) else { return nil }
    _ = consume writer
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = read(reader.raw, &bytes, bytes.count)
    _ = child.waitForEnd(milliseconds: 5000)
    return count > 0 ? String(decoding: bytes.prefix(count), as: UTF8.self) : nil
  }
}

extension DoctorFacts.QEMU {
  /// Reads what `qemu-system-x86_64 --version` says.
  init?(_ program: String, said text: String) {
    let words = text.split { $0 == " " || $0 == "\n" }
    guard let word = words.firstIndex(of: "version"), word + 1 < words.count else { return nil }
    let numbers = words[word + 1].split { $0 == "." || $0 == "," }.compactMap { Int($0) }
    guard numbers.count >= 2 else { return nil }
    self.init(program: program, major: numbers[0], minor: numbers[1])
  }
}
