import Buffers
import GuestMemory
import Linux
import Testing

@testable import pinhole

@Suite struct DoctorTests {
  /// A machine on which nothing is wrong.
  private func healthy() -> DoctorFacts {
    DoctorFacts(
      kernel: "6.12.1-amd64", udmabuf: device("udmabuf", "kvm", 0o660, opens: true),
      udmabufProblem: nil, limits: .init(entries: 8192, bytes: 128 << 20),
      userfaultfd: device("userfaultfd", "root", 0o600, opens: true), detector: .success(.scan),
      detectors: [.scan, .pagemap, .faults], timesAreExact: true, sealsMemfds: true, landlock: 6,
      filtersCalls: true, qemu: .init(program: "qemu-system-x86_64", major: 10, minor: 0),
      descriptor: .installed("/usr/share/qemu/vhost-user/50-pinhole.json"))
  }

  private func device(
    _ name: String, _ group: String, _ mode: UInt32, opens: Bool
  ) -> DeviceAccess {
    DeviceAccess(path: "/dev/\(name)", owner: "root", group: group, mode: mode, opens: opens)
  }

  private func marks(_ report: DoctorReport) -> [String: DoctorReport.Mark] {
    Dictionary(uniqueKeysWithValues: report.lines.map { ($0.subject, $0.mark) })
  }

  @Test func aHealthyMachineIsDirect() {
    let report = DoctorReport(healthy())
    #expect(report.isDirect)
    #expect(report.verdict.hasPrefix("direct:"))
    #expect(report.lines.allSatisfy { $0.mark == .good }, "\(report.text)")
    #expect(report.text.split(separator: "\n").last?.contains("would get direct") == true)
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
    #expect(report.text.contains("/sys/module/udmabuf/parameters/list_limit"))
    #expect(report.text.contains("without KVM"))
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
    print(report.text)
    #expect(report.isDirect == (facts.udmabufProblem == nil && (try? facts.detector.get()) != nil))
    #expect(report.isDirect == !report.lines.contains { $0.mark == .bad })
  }
}
