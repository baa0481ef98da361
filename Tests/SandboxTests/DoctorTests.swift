import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import Monitoring
import Testing

@testable import Daemon
@testable import Doctor

@Suite struct DoctorTests {
  /// A machine on which nothing is wrong.
  private func healthy() -> DoctorFacts {
    DoctorFacts(
      kernel: "6.12.1-amd64", udmabuf: device("udmabuf", "kvm", 0o660, opens: true),
      udmabufProblem: nil, limits: .init(entries: 8192, bytes: 128 << 20),
      userfaultfd: device("userfaultfd", "root", 0o600, opens: true), detector: .success(.scan),
      detectors: [.scan, .pagemap, .faults], timesAreExact: true, sealsMemfds: true, landlock: 6,
      filtersCalls: true, qemu: .init(program: "qemu-system-x86_64", major: 10, minor: 0),
      descriptor: .installed("/usr/share/qemu/vhost-user/50-pinhole.json"),
      confinement: .allows(profile: "/etc/apparmor.d/usr.sbin.libvirtd"),
      renderer: .works(on: "/dev/dri/renderD128", isRecent: true),
      sendBuffer: 8 << 20)
  }

  @Test func tellsOfASmallSocketBuffer() {
    var facts = healthy()
    facts.sendBuffer = 425_984
    let report = DoctorReport(facts)
    #expect(marks(report)["socket"] == .advice)
    #expect(report.text().contains("416 KiB may wait"))
    #expect(report.text().contains("type: sysctl -w net.core.wmem_max=4194304"))
    #expect(report.isDirect)
  }

  @Test func toldOfAnOldLibraryAndOfNone() {
    var facts = healthy()
    facts.renderer = .works(on: "the processor", isRecent: false)
    var report = DoctorReport(facts)
    #expect(marks(report)["3D"] == .advice)
    #expect(report.text().contains("older than 1.1.0"))
    facts.renderer = .missing("it is not installed")
    report = DoctorReport(facts)
    #expect(marks(report)["3D"] == .advice)
    #expect(report.text().contains("3D: serve --3d would have none: it is not installed"))
    #expect(report.isDirect)
  }

  @Test func aGPUIsLookedAt() {
    func text(_ change: (inout RenderNodeFacts) -> Void) -> String {
      var node = RenderNodeFacts(path: "/dev/dri/renderD128", driver: "i915")
      change(&node)
      let report = DoctorReport(healthy(), node: node)
      #expect(report.isDirect)
      for line in report.lines { #expect((line.cure == nil) == (line.mark == .good)) }
      return report.text()
    }
    let fine = text {
      $0.importing = .success(())
      $0.hasTimelines = true
      $0.drawing = .success("/dev/dri/renderD128")
    }
    #expect(fine.contains("ok    GPU: /dev/dri/renderD128 belongs to i915\n"))
    #expect(fine.contains("ok    GPU import: the driver takes a dma-buf of guest pages\n"))
    #expect(fine.contains("ok    GPU fences: "))
    #expect(
      fine.contains("ok    GPU 3D: serve --3d --render-node /dev/dri/renderD128 draws on /dev"))
    let refuses = text { $0.importing = .failure(Errno(EINVAL, "ioctl")) }
    #expect(refuses.contains("note  GPU import: the driver refuses a dma-buf of guest pages ("))
    #expect(refuses.contains("type: make gpu-check"))
    #expect(text { $0.driver = nil }.contains("note  GPU: /dev/dri/renderD128 is no DRM device\n"))
    let missing = DoctorReport(healthy(), node: RenderNodeFacts("/dev/dri/renderD999")).text()
    #expect(missing.contains("/dev/dri/renderD999 cannot be opened: No such file or directory\n"))
    #expect(missing.contains("type: ls -l /dev/dri"))
    let other = DoctorReport(healthy(), node: RenderNodeFacts("/dev/null")).text()
    #expect(other.contains("GPU: /dev/null is no DRM device"))
  }

  private func device(
    _ name: String, _ group: String, _ mode: UInt32, opens: Bool
  ) -> DeviceAccess {
    DeviceAccess(path: "/dev/\(name)", owner: "root", group: group, mode: mode, opens: opens)
  }

  private func marks(_ report: DoctorReport) -> [String: DoctorReport.Mark] {
    Dictionary(uniqueKeysWithValues: report.lines.map { ($0.subject, $0.mark) })
  }

  @Test func aGroupToJoinIsNeverRoot() {
    let advice = device("udmabuf", "root", 0o660, opens: false).advice
    #expect(advice.hasPrefix("add the rule KERNEL==\"udmabuf\", GROUP=\"kvm\""), "\(advice)")
    #expect(device("udmabuf", "kvm", 0o660, opens: false).advice.hasPrefix("add this user to"))
  }

  @Test func aHealthyMachineIsDirect() {
    let report = DoctorReport(healthy())
    #expect(report.isDirect)
    #expect(report.verdict.hasPrefix("direct:"))
    #expect(report.lines.allSatisfy { $0.mark == .good }, "\(report.text())")
    #expect(report.text().split(separator: "\n").last?.contains("would get direct") == true)
  }

  /// A machine on which nothing is wrong, and a guest whose memory nobody can share.
  @Test func aQEMUThatCannotBeShownIsNotDirect() {
    let qemu = QEMUFacts(
      pid: 42, program: "qemu-system-x86_64", user: "alice",
      commandLine: QEMUCommandLine(["qemu", "-device", "vhost-user-gpu-pci,chardev=gpu"]),
      memory: [], label: nil, sockets: [], hasHandedSocket: true)
    let report = DoctorReport(healthy(), qemu: qemu)
    #expect(!report.isDirect)
    #expect(
      report.verdict.hasPrefix("copy: is in no file that could be shared. To get direct mode: "))
    #expect(report.verdict.contains("memory-backend-memfd"))
  }

  @Test func namesTheGroupToJoin() {
    var facts = healthy()
    facts.udmabuf = device("udmabuf", "kvm", 0o660, opens: false)
    facts.udmabufProblem = .noAccess(Errno(13, "open"))
    let report = DoctorReport(facts)
    #expect(!report.isDirect)
    #expect(report.verdict.hasPrefix("copy: this user may not open /dev/udmabuf (root:kvm 0660)"))
    #expect(report.verdict.contains("usermod -aG kvm"))
    #expect(marks(report)["/dev/udmabuf"] == .bad)
  }

  @Test(arguments: [0o600, 0o660] as [UInt32])
  func namesTheRuleWhereNoGroupHelps(_ mode: UInt32) {
    var facts = healthy()
    facts.udmabuf = device("udmabuf", "root", mode, opens: false)
    facts.udmabufProblem = .noAccess(Errno(13, "open"))
    let verdict = DoctorReport(facts).verdict
    #expect(verdict.contains("KERNEL==\"udmabuf\", GROUP=\"kvm\", MODE=\"0660\""))
  }

  @Test func namesTheCgroupWherePermissionsAllow() {
    var facts = healthy()
    facts.udmabuf = device("udmabuf", "root", 0o666, opens: false)
    facts.udmabufProblem = .noAccess(Errno(1, "open"))
    #expect(DoctorReport(facts).verdict.contains("cgroup_device_acl"))
  }

  @Test func namesTheModule() {
    var facts = healthy()
    facts.udmabuf = nil
    facts.udmabufProblem = .noDevice
    let report = DoctorReport(facts)
    #expect(!report.isDirect)
    #expect(report.verdict.contains("modprobe udmabuf"))
    #expect(marks(report)["udmabuf list_limit"] == nil, "no limits of what is not there")
  }

  @Test func namesEveryObstacleAtOnce() {
    var facts = healthy()
    facts.udmabuf = nil
    facts.udmabufProblem = .noDevice
    facts.userfaultfd = device("userfaultfd", "root", 0o600, opens: false)
    facts.detector = .failure(.userfaultfdDenied(Errno(1, "userfaultfd")))
    let verdict = DoctorReport(facts).verdict
    #expect(verdict.contains("modprobe udmabuf"))
    #expect(verdict.contains("KERNEL==\"userfaultfd\""))
  }

  @Test func anOldKernelHasNoWitness() {
    var facts = healthy()
    facts.kernel = "5.10.0-30-amd64"
    facts.detector = .failure(.missingFeature("MINOR_SHMEM"))
    let report = DoctorReport(facts)
    #expect(!report.isDirect)
    #expect(report.verdict.contains("Linux 5.14"))
    #expect(marks(report)["kernel"] == .advice)
    #expect(marks(report)["detector"] == nil)
  }

  @Test func adviceDoesNotStandInTheWay() {
    var facts = healthy()
    facts.kernel = "6.1.0-30-amd64"
    facts.limits = .init(entries: 1024, bytes: 16 << 20)
    facts.detector = .success(.pagemap)
    facts.landlock = nil
    facts.filtersCalls = false
    facts.qemu = .init(program: "qemu-system-x86_64", major: 8, minor: 1)
    facts.descriptor = .elsewhere("/usr/local/share/qemu/vhost-user/50-pinhole.json")
    let report = DoctorReport(facts)
    #expect(report.isDirect)
    for subject in [
      "kernel", "udmabuf list_limit", "udmabuf size_limit_mb", "detector", "Landlock", "seccomp",
      "QEMU", "libvirt",
    ] {
      #expect(marks(report)[subject] == .advice, "\(subject)")
    }
    #expect(report.text().contains("/sys/module/udmabuf/parameters/list_limit"))
    #expect(report.text().contains("without KVM"))
  }

  /// Every finding that can be other than "ok", each as bad as it gets.
  @Test func whateverIsNotInOrderSaysWhatToType() throws {
    var facts = DoctorFacts(
      kernel: "5.10.0", udmabuf: device("udmabuf", "root", 0o600, opens: false),
      udmabufProblem: .noAccess(Errno(13, "open")), limits: .init(entries: 10, bytes: 1 << 20),
      userfaultfd: nil, detector: .failure(.userfaultfdDenied(Errno(1, "userfaultfd"))),
      detectors: [], timesAreExact: false, sealsMemfds: false, landlock: nil, filtersCalls: false,
      qemu: nil, descriptor: .missing,
      confinement: .denies(
        profile: "/etc/apparmor.d/usr.sbin.libvirtd", binary: "/usr/local/bin/pinhole"),
      renderer: .missing("it is not installed"), sendBuffer: 1)
    var reports = [DoctorReport(facts)]
    facts.udmabufProblem = .noDevice
    facts.udmabuf = nil
    facts.detector = .success(.faults)
    facts.qemu = .init(program: "q", major: 9, minor: 0)
    facts.descriptor = .elsewhere("/usr/local/share/qemu/vhost-user/50-pinhole.json")
    facts.renderer = .works(on: "the processor", isRecent: false)
    reports.append(DoctorReport(facts))
    for line in reports.flatMap(\.lines) where line.mark != .good {
      #expect(try isTyped(line.cure ?? ""), "\(line)")
      #expect(reports.contains { $0.text().contains("type: \(line.cure ?? "")\n") })
    }
    let bad = reports[0].lines.filter { $0.mark != .good }
    #expect(bad.count == reports[0].lines.count, "nothing is in order: \(reports[0].text())")
  }

  @Test func programsReadItToo() throws {
    let json = try #require(JSON(parsing: DoctorReport(healthy()).json.text))
    #expect(json["direct"]?.bool == true)
    let lines = try #require(json["lines"]?.elements)
    #expect(lines.allSatisfy { $0["mark"]?.string == "good" && $0["type"] == .null })
    var facts = healthy()
    facts.udmabuf = nil
    facts.udmabufProblem = .noDevice
    let other = DoctorReport(facts).json
    #expect(other["direct"]?.bool == false)
    let line = other["lines"]?.elements?.first { $0["subject"]?.string == "/dev/udmabuf" }
    #expect(line?["mark"]?.string == "bad")
    #expect(line?["type"]?.string?.hasPrefix("modprobe udmabuf") == true)
  }

  @Test func knowsWhatLibvirtMayStart() throws {
    let folder = try TemporaryDirectory()
    func confinement(_ binary: String, enabled: Bool = true) -> DoctorFacts.Confinement {
      DoctorFacts.confinement(of: binary, isEnabled: enabled, profiles: folder.path)
    }
    #expect(confinement("/usr/local/bin/pinhole") == .none, "libvirt has no profile")
    let profile = folder.file("usr.sbin.libvirtd")
    try WholeFile.write([UInt8]("profile libvirtd {}".utf8), to: profile)
    #expect(confinement("/usr/local/bin/pinhole", enabled: false) == .none)
    #expect(confinement("/usr/bin/pinhole") == .allows(profile: profile))
    #expect(confinement("/usr/libexec/vhost-user-gpu") == .allows(profile: profile))
    #expect(
      confinement("/usr/libexec/pinhole")
        == .denies(profile: profile, binary: "/usr/libexec/pinhole"))
    let local = "/usr/local/bin/pinhole"
    #expect(confinement(local) == .denies(profile: profile, binary: local))
    #expect(mkdir(folder.file("local"), 0o700) == 0)
    defer {
      unlink(folder.file("local/usr.sbin.libvirtd"))
      rmdir(folder.file("local"))
    }
    try WholeFile.write(
      [UInt8]("# mine\n\(local) PUx,\n".utf8), to: folder.file("local/usr.sbin.libvirtd"))
    #expect(confinement(local) == .allows(profile: profile))
  }

  @Test func readsVersionsOfQEMU() {
    let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright (c) 2003-2025\n"
    #expect(
      DoctorFacts.QEMU("q", said: text) == DoctorFacts.QEMU(program: "q", major: 10, minor: 0))
    #expect(DoctorFacts.QEMU("q", said: "no such thing") == nil)
    #expect(DoctorFacts.QEMU("q", said: "version") == nil)
  }

  /// This machine, whatever it is: the verdict agrees with what was found.
  @Test func looksAtThisMachine() {
    let facts = DoctorFacts.here()
    let report = DoctorReport(facts)
    print(report.text())
    #expect(report.isDirect == (facts.udmabufProblem == nil && (try? facts.detector.get()) != nil))
    #expect(report.isDirect == !report.lines.contains { $0.mark == .bad })
  }
}
