import Buffers
import CLinux
import Daemon
import Glibc
import GuestMemory
import Linux
import Monitoring
import QEMUDisplay
import Rendering
import Sandbox

/// What `pinhole doctor` found out about a machine.
package struct DoctorFacts {
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
  /// Whether AppArmor lets libvirt start what the descriptor names.
  var confinement: Confinement
  /// What would draw guests' OpenGL.
  var renderer: Renderer
  /// Bytes of `SO_SNDBUF` that QEMU's display socket would come to, socket(7).
  var sendBuffer: Int

  /// What `pinhole serve --3d` would find.
  enum Renderer: Equatable {
    /// Renderers start, on a render node or on the processor.
    case works(on: String, isRecent: Bool)
    /// Why they do not.
    case missing(String)
  }

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

  /// libvirtd's profile in AppArmor.
  enum Confinement: Equatable {
    /// Nothing is confined, or there is nothing to start.
    case none
    /// The profile's path.
    case allows(profile: String)
    /// The profile's path, and what libvirt may not start.
    case denies(profile: String, binary: String)
  }

  /// Looks at this machine.
  package static func here() -> DoctorFacts {
    var problem: CopyReason?
    do throws(CopyReason) { _ = try UdmabufDevice.open() } catch { problem = error }
    return DoctorFacts(
      kernel: release(), udmabuf: DeviceAccess("/dev/udmabuf"), udmabufProblem: problem,
      limits: .read(), userfaultfd: DeviceAccess("/dev/userfaultfd"), detector: detector(nil),
      detectors: Detector.allCases.filter { (try? detector($0).get()) != nil },
      timesAreExact: WitnessKeeper.timesAreExact, sealsMemfds: sealsMemfds(),
      landlock: Landlock.abi, filtersCalls: Sandbox.hasCallFilters, qemu: findQEMU(),
      descriptor: findDescriptor(), confinement: findConfinement(), renderer: findRenderer(),
      sendBuffer: sendBuffer())
  }

  /// As large as this user may have it; 0 where that cannot be found out.
  private static func sendBuffer() -> Int {
    guard let pair = try? UnixSocket.Pair(.stream) else { return 0 }
    return (try? UnixSocket.growSendBuffer(pair.first.raw, to: QEMUDisplay.sendBuffer)) ?? 0
  }

  private static func findRenderer() -> Renderer {
    switch RenderingOptions.probe() {
    case .success(let renderer):
      .works(on: renderer.node ?? "the processor", isRecent: renderer.isRecent)
    case .failure(let error): .missing(error.description)
    }
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
    let names = (try? Folder.names(in: folder)) ?? []
    return names.first { $0.hasSuffix("pinhole.json") }.map { "\(folder)/\($0)" }
  }

  private static func findConfinement() -> Confinement {
    guard case .installed(let path) = findDescriptor(),
      let binary = ProcFile.text(path).flatMap({ JSON(parsing: $0) })?["binary"]?.string
    else { return .none }
    return confinement(
      of: binary, isEnabled: ProcFile.text("/sys/module/apparmor/parameters/enabled") == "Y\n",
      profiles: "/etc/apparmor.d")
  }

  /// What libvirt's own profile lets it start: programs in /usr/bin, back-ends where QEMU's are,
  /// and what local rules add.
  ///
  /// - Parameters:
  ///   - binary: a program's path.
  ///   - profiles: the folder of AppArmor's profiles.
  static func confinement(of binary: String, isEnabled: Bool, profiles: String) -> Confinement {
    guard isEnabled else { return .none }
    let names = ["usr.sbin.libvirtd", "usr.sbin.virtqemud"]
    guard let name = names.first(where: { access("\(profiles)/\($0)", R_OK) == 0 }) else {
      return .none
    }
    let profile = "\(profiles)/\(name)"
    let folder = binary.lastIndex(of: "/").map { binary[..<$0] } ?? ""
    let backEnds = ["/usr/lib", "/usr/lib64", "/usr/lib/qemu", "/usr/libexec"]
    let isBackEnd = backEnds.contains { binary == "\($0)/vhost-user-gpu" }
    let rules = ProcFile.text("\(profiles)/local/\(name)") ?? ""
    let isAllowed =
      folder == "/usr/bin" || isBackEnd
      || rules.split(separator: "\n").contains {
        $0.split(separator: " ").first.map(unquoted) == binary
      }
    return isAllowed ? .allows(profile: profile) : .denies(profile: profile, binary: binary)
  }

  private static func unquoted(_ word: Substring) -> String { String(word.filter { $0 != "\"" }) }

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
