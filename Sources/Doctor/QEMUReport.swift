import Linux

/// What `pinhole doctor --pid` says of a QEMU that runs.
enum QEMUReport {
  private typealias Line = DoctorReport.Line

  /// Judges facts; looks at nothing else.
  static func lines(_ facts: QEMUFacts) -> [DoctorReport.Line] {
    guard facts.program.hasPrefix("qemu") || facts.program == "kvm" else {
      return [
        Line(
          mark: .bad, subject: "process", text: "\(facts.pid) is \(facts.program), and no QEMU",
          cure: "pgrep -a qemu")
      ]
    }
    return [
      Line(
        mark: .good, subject: "process",
        text: "\(facts.pid) is \(facts.program) of user \(facts.user)")
    ] + memory(facts) + [device(facts)] + [display(facts), secondVGA(facts)].compactMap { $0 }
      + sockets(facts) + [label(facts)]
  }

  // MARK: Memory

  /// Memory that a vhost-user device sees and udmabuf takes, as large as the guest's is now.
  private static func backend(_ facts: QEMUFacts, _ more: String = "") -> String {
    let memory = facts.commandLine.all("m").last
    let given = memory.map { $0.properties["size"] ?? $0.kind } ?? ""
    // Numbers alone are MiB to -m, and bytes to a backend.
    let size = given.isEmpty ? "128M" : given.allSatisfy(\.isNumber) ? given + "M" : given
    return "-object " + Cure.word("memory-backend-memfd,id=mem,size=\(size),share=on" + more)
      + " -machine memory-backend=mem"
  }

  private static func memory(_ facts: QEMUFacts) -> [Line] {
    guard let memory = facts.memory else {
      return [
        Line(
          mark: .bad, subject: "guest memory", text: "this user may not look at it",
          cure: "sudo pinhole doctor --pid \(facts.pid)")
      ]
    }
    guard let ram = memory.first(where: \.isMemfd) ?? memory.first else {
      return [
        Line(
          mark: .bad, subject: "guest memory", text: "is in no file that could be shared",
          cure: backend(facts))
      ]
    }
    guard ram.isMemfd else {
      return [
        Line(
          mark: .bad, subject: "guest memory",
          text: "is in \(ram.path), which udmabuf does not take: pictures are copied",
          cure: backend(facts))
      ]
    }
    guard ram.isShared else {
      return [
        Line(
          mark: .bad, subject: "guest memory",
          text: "is in a memfd that QEMU does not share: a vhost-user device sees nothing of it",
          cure: backend(facts))
      ]
    }
    let all = memory.filter { $0.isMemfd && $0.isShared }
    let bytes = all.reduce(0) { $0 &+ $1.bytes }
    return [
      Line(
        mark: .good, subject: "guest memory",
        text: "\(bytes >> 20) MiB in \(all.count == 1 ? "a memfd" : "\(all.count) memfds"), shared")
    ] + [seals(all, facts), pages(all)]
  }

  private static func seals(_ memory: [QEMUFacts.Memory], _ facts: QEMUFacts) -> Line {
    if memory.contains(where: { $0.seals == nil }) {
      return Line(
        mark: .advice, subject: "seals", text: "this user may not look at them",
        cure: "sudo pinhole doctor --pid \(facts.pid)")
    }
    if memory.contains(where: { $0.seals?.contains(.shrink) != true }) {
      return Line(
        mark: .bad, subject: "seals",
        text: "guest memory has no F_SEAL_SHRINK, which udmabuf demands: pictures are copied",
        cure: backend(facts, ",seal=on"))
    }
    if memory.contains(where: { $0.seals?.contains(.write) == true }) {
      return Line(
        mark: .bad, subject: "seals",
        text: "guest memory is sealed against writing, which udmabuf refuses: pictures are copied",
        cure: backend(facts))
    }
    return Line(mark: .good, subject: "seals", text: "F_SEAL_SHRINK, as udmabuf demands")
  }

  private static func pages(_ memory: [QEMUFacts.Memory]) -> Line {
    let largest = memory.map(\.pageSize).max() ?? 4096
    let size = largest >= 1 << 20 ? "\(largest >> 20) MiB" : "\(largest >> 10) KiB"
    return Line(
      mark: .good, subject: "pages",
      text: largest >= 1 << 20 ? "huge, \(size) each" : "\(size) each, no huge ones")
  }

  // MARK: Devices

  private static func device(_ facts: QEMUFacts) -> Line {
    let devices = facts.commandLine.all("device").filter(QEMUFacts.isGPU)
    guard let first = devices.first else {
      return Line(
        mark: .bad, subject: "GPU", text: "QEMU has no vhost-user GPU",
        cure: "-chardev socket,id=gpu,path=gpu.sock -device vhost-user-gpu-pci,chardev=gpu")
    }
    return Line(
      mark: .good, subject: "GPU",
      text: devices.map(\.kind).joined(separator: ", ")
        + (first.kind.contains("device-pci") ? ", which passes blobs and has no console" : ""))
  }

  private static func secondVGA(_ facts: QEMUFacts) -> Line? {
    let line = facts.commandLine
    let hasGPU = line.all("device").contains { $0.kind.hasPrefix("vhost-user-gpu") }
    guard hasGPU, line.all("nodefaults").isEmpty,
      !line.all("vga").contains(where: { $0.kind == "none" })
    else { return nil }
    return Line(
      mark: .advice, subject: "VGA",
      text: "QEMU adds a VGA of its own, and the guest may show its picture there; "
        + "vhost-user-vga would take its place", cure: "-vga none")
  }

  private static func display(_ facts: QEMUFacts) -> Line? {
    let line = facts.commandLine
    guard let display = line.all("display").last else { return nil }
    guard ["gtk", "sdl", "dbus"].contains(display.kind),
      display.flag("gl") ?? (display.properties["gl"] == "es") == false,
      line.all("device").contains(where: QEMUFacts.isGPU)
    else { return Line(mark: .good, subject: "display", text: display.kind) }
    return Line(
      mark: .advice, subject: "display", text: "\(display.kind) without OpenGL",
      cure: "-display \(display.kind),gl=on")
  }

  // MARK: Its socket and its confinement

  private static func sockets(_ facts: QEMUFacts) -> [Line] {
    if facts.hasHandedSocket {
      return [
        Line(
          mark: .good, subject: "socket",
          text: "handed over by whoever started QEMU, as libvirt does")
      ]
    }
    return facts.sockets.map { socket in
      guard !socket.mode.isEmpty else {
        return Line(
          mark: .advice, subject: "socket",
          text: "there is no \(socket.path) any more, so QEMU could not connect again",
          cure: "pinhole serve --socket-path \(Cure.word(socket.path))   # then restart QEMU")
      }
      let rights = "\(socket.owner):\(socket.group) \(socket.mode)"
      let who = socket.listener.map { ", \($0) listens" } ?? ""
      guard socket.isOpenToQEMU else {
        return Line(
          mark: .advice, subject: "socket",
          text: "\(socket.path) is \(rights)\(who): QEMU's user \(facts.user) may not connect",
          cure: "sudo -u \(Cure.word(facts.user)) pinhole serve --socket-path "
            + Cure.word(socket.path))
      }
      return Line(mark: .good, subject: "socket", text: "\(socket.path), \(rights)\(who)")
    }
  }

  private static func label(_ facts: QEMUFacts) -> Line {
    guard let label = facts.label, label != "unconfined" else {
      return Line(mark: .good, subject: "AppArmor", text: "does not confine QEMU")
    }
    let paths = facts.sockets.map(\.path)
    guard label.hasSuffix("(enforce)"), let path = paths.first else {
      return Line(mark: .good, subject: "AppArmor", text: label)
    }
    return Line(
      mark: .advice, subject: "AppArmor", text: "\(label), which has to allow \(path)",
      cure: "echo \(Cure.word("\"\(path)\" rw,")) >> "
        + "/etc/apparmor.d/local/abstractions/libvirt-qemu   # then start the VM again")
  }
}
