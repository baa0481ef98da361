import FakeGuest
import Glibc
import Linux
import Testing

@testable import Doctor

/// `pinhole doctor --pid` on real QEMUs, whose processors stand still.
@Suite(.serialized, .enabled(if: (QEMUProcess.majorVersion ?? 0) >= 10, "needs QEMU 10"))
struct DoctorQEMUTests {
  /// A QEMU that runs until it goes.
  private final class Machine {
    let child: ChildProcess
    private let directory: TemporaryDirectory

    /// Returns once QEMU's machine is there, and the device with that id is ready.
    init(_ arguments: [String], device: String? = nil) throws {
      directory = try TemporaryDirectory()
      let path = directory.file("qmp")
      child = try ChildProcess(
        [
          "qemu-system-x86_64", "-S", "-accel", "tcg", "-nodefaults", "-display", "none",
          "-qmp", "unix:\(path),server=on,wait=off",
        ] + arguments, fds: [])
      let monitor = try QMPClient(path, of: child)
      if let device { try monitor.waitUntilRealized(device) }
    }

    deinit { child.signal(SIGKILL) }
  }

  private func lines(_ arguments: [String]) throws -> [String: DoctorReport.Line] {
    let machine = try Machine(arguments)
    return try lines(of: machine.child.pid)
  }

  private func lines(of pid: Int32) throws -> [String: DoctorReport.Line] {
    let lines = QEMUReport.lines(try QEMUFacts(pid: pid))
    for line in lines where line.mark != .good {
      // A command, or options of QEMU's.
      let word = line.cure?.split(separator: " ").first ?? ""
      #expect(
        word.hasPrefix("-") || ["echo", "pgrep", "pinhole", "sudo"].contains(word), "\(line)")
    }
    return Dictionary(lines.map { ($0.subject, $0) }) { first, _ in first }
  }

  @Test func allIsWellInFrontOfPinhole() throws {
    let pinhole = try PinholeProcess()
    let machine = try Machine(
      [
        "-m", "64", "-object", "memory-backend-memfd,id=mem,size=64M,share=on",
        "-machine", "pc,memory-backend=mem", "-chardev", "socket,id=gpu,path=\(pinhole.socket)",
        "-device", "vhost-user-gpu-pci,chardev=gpu,id=vga",
      ], device: "vga")
    let lines = try lines(of: machine.child.pid)
    for subject in ["process", "guest memory", "seals", "pages", "GPU", "display", "socket"] {
      #expect(lines[subject]?.mark == .good, "\(subject): \(String(describing: lines[subject]))")
    }
    #expect(lines["guest memory"]?.text == "64 MiB in a memfd, shared")
    #expect(lines["socket"]?.text.contains("0600, pinhole (process \(pinhole.child.pid))") == true)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    let gone = try self.lines(of: machine.child.pid)
    #expect(gone["socket"]?.cure?.hasPrefix("pinhole serve --socket-path") == true)
  }

  @Test(arguments: [
    ("memory-backend-memfd,id=mem,size=64M,share=on,seal=off", "seals", "share=on,seal=on"),
    ("memory-backend-memfd,id=mem,size=64M,share=off", "guest memory", "share=on"),
    ("memory-backend-ram,id=mem,size=64M", "guest memory", "memory-backend-memfd"),
  ])
  func memoryThatIsCopied(_ object: String, _ subject: String, _ cure: String) throws {
    let lines = try lines([
      "-m", "64", "-object", object, "-machine", "pc,memory-backend=mem",
    ])
    #expect(lines[subject]?.mark == .bad, "\(lines)")
    #expect(lines[subject]?.cure?.contains(cure) == true, "\(lines)")
    #expect(lines["GPU"]?.mark == .bad, "it has none")
  }

  @Test func memoryInAFile() throws {
    let directory = try TemporaryDirectory()
    let lines = try lines([
      "-m", "64", "-object",
      "memory-backend-file,id=mem,size=64M,share=on,mem-path=\(directory.file("ram"))",
      "-machine", "pc,memory-backend=mem",
    ])
    #expect(lines["guest memory"]?.text.contains(directory.file("ram")) == true, "\(lines)")
    #expect(lines["guest memory"]?.mark == .bad)
  }

  @Test func otherProcessesAreNoQEMU() throws {
    let lines = try lines(of: getpid())
    #expect(lines.count == 1 && lines["process"]?.cure == "pgrep -a qemu")
    #expect(throws: (any Error).self) { try QEMUFacts(pid: .max) }
  }
}

/// What is read in a command line, and judged, without a QEMU.
@Suite struct QEMUCommandLineTests {
  @Test func peoplesAndLibvirtsWordsAreReadAlike() {
    let people = QEMUCommandLine([
      "qemu", "-nodefaults", "-object", "memory-backend-memfd,id=a,,b,share=yes", "-device",
      "vhost-user-gpu-pci,chardev=gpu", "-display", "gtk,gl=on", "-daemonize",
    ])
    let libvirt = QEMUCommandLine([
      "qemu", "-nodefaults", "-object",
      #"{"qom-type":"memory-backend-memfd","id":"a,b","share":true}"#, "-device",
      #"{"driver":"vhost-user-gpu-pci","chardev":"gpu"}"#, "-display", "gtk,gl=on", "-daemonize",
    ])
    #expect(
      people.options.map(\.name) == ["nodefaults", "object", "device", "display", "daemonize"])
    for line in [people, libvirt] {
      #expect(line.all("object").first?.kind == "memory-backend-memfd")
      #expect(line.all("object").first?.properties["id"] == "a,b")
      #expect(line.all("object").first?.flag("share") == true)
      #expect(line.all("device").first.map(QEMUFacts.isGPU) == true)
      #expect(line.all("display").first?.flag("gl") == true)
    }
  }

  private func facts(
    _ words: [String], label: String? = nil, sockets: [QEMUFacts.Socket] = [],
    memory: [QEMUFacts.Memory]? = nil
  ) -> QEMUFacts {
    QEMUFacts(
      pid: 42, program: "qemu-system-x86_64", user: "libvirt-qemu",
      commandLine: QEMUCommandLine(["qemu"] + words), memory: memory, label: label,
      sockets: sockets, hasHandedSocket: false)
  }

  private func line(_ subject: String, _ facts: QEMUFacts) -> DoctorReport.Line? {
    QEMUReport.lines(facts).first { $0.subject == subject }
  }

  @Test func aSecondVGAAndADisplayWithoutOpenGL() {
    let gpu = ["-device", "vhost-user-gpu-pci,chardev=gpu", "-display", "gtk"]
    #expect(line("VGA", facts(gpu))?.cure == "-vga none")
    #expect(line("VGA", facts(gpu + ["-vga", "none"])) == nil)
    #expect(line("VGA", facts(gpu + ["-nodefaults"])) == nil)
    #expect(line("display", facts(gpu))?.cure == "-display gtk,gl=on")
  }

  @Test func confinementAndOwners() {
    var socket = QEMUFacts.Socket(
      path: "/run/gpu.sock", owner: "alice", group: "alice", mode: "0600", isOpenToQEMU: false,
      listener: nil)
    let label = "libvirt-0123 (enforce)"
    #expect(line("socket", facts([], sockets: [socket]))?.mark == .advice)
    #expect(
      line("AppArmor", facts([], label: label, sockets: [socket]))?.cure?
        .contains("abstractions/libvirt-qemu") == true)
    #expect(line("AppArmor", facts([], label: "unconfined"))?.mark == .good)
    #expect(
      line("socket", facts([], sockets: [socket]))?.cure
        == "sudo -u libvirt-qemu pinhole serve --socket-path /run/gpu.sock")
    socket.isOpenToQEMU = true
    #expect(line("socket", facts([], sockets: [socket]))?.mark == .good)
  }

  @Test(arguments: [
    ([], "128M"), (["-m", "4G"], "4G"), (["-m", "512"], "512M"),
    (["-m", "size=2G,slots=3,maxmem=8G"], "2G"),
  ])
  func memoryAsLargeAsItIsNow(_ words: [String], _ size: String) {
    #expect(
      line("guest memory", facts(words, memory: []))?.cure
        == "-object memory-backend-memfd,id=mem,size=\(size),share=on -machine memory-backend=mem")
  }

  /// A QEMU's user chooses what its command line says; root types what doctor says.
  @Test func nothingOfACommandLineRunsInRootsShell() {
    let socket = QEMUFacts.Socket(
      path: "a'$(id)\n", owner: "", group: "", mode: "", isOpenToQEMU: false, listener: nil)
    let found = line("socket", facts([], sockets: [socket]))
    #expect(
      found?.cure == "pinhole serve --socket-path 'a'\\''$(id)\n'   # then restart QEMU")
  }

  @Test func whatMayNotBeLookedAt() {
    #expect(line("guest memory", facts([]))?.cure == "sudo pinhole doctor --pid 42")
    let huge = QEMUFacts.Memory(
      path: "/memfd:memory-backend-memfd", bytes: 1 << 30, isShared: true, seals: [.shrink],
      pageSize: 2 << 20)
    #expect(line("pages", facts([], memory: [huge]))?.text == "huge, 2 MiB each")
  }
  /// What udmabuf demands of memory holds for each of several memfds, as QEMU has one for each node.
  @Test func sealsOfAllMemoryAreJudged() {
    func seals(_ each: Seals?...) -> DoctorReport.Line? {
      let memory = each.map {
        QEMUFacts.Memory(
          path: "/memfd:memory-backend-memfd", bytes: 1 << 30, isShared: true, seals: $0,
          pageSize: 4096)
      }
      return line("seals", facts([], memory: memory))
    }
    #expect(seals([.shrink], [.shrink, .grow])?.mark == .good)
    #expect(seals([.shrink], [])?.mark == .bad)
    #expect(seals([.shrink], [])?.cure?.contains(",seal=on") == true)
    #expect(seals([.shrink], [.shrink, .write])?.mark == .bad)
    #expect(seals([.shrink], nil)?.cure == "sudo pinhole doctor --pid 42")
  }

  /// QEMU 11 has a device for any vhost-user back-end, which the number tells what it is.
  @Test(arguments: [("16", true), ("18", false)])
  func theGenericDeviceMayBeAGPU(_ id: String, _ isGPU: Bool) {
    let device = ["-device", "vhost-user-test-device-pci,virtio-id=\(id),chardev=gpu"]
    #expect(line("GPU", facts(device))?.mark == (isGPU ? .good : .bad))
  }
}
