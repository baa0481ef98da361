import Command
import Glibc
import Linux
import Monitoring

/// What /proc tells of a QEMU that runs.
package struct QEMUFacts {
  /// Memory that it shares with others, or does not.
  struct Memory: Equatable {
    /// As in /proc/PID/maps, such as `/memfd:memory-backend-memfd`.
    var path: String
    /// Bytes that are mapped.
    var bytes: UInt64
    /// Whether others see what is written to it.
    var isShared: Bool
    /// Its seals; nil for what is no memfd, or may not be looked at.
    var seals: Seals?
    /// Bytes of a page.
    var pageSize: UInt64

    var isMemfd: Bool { path.hasPrefix("/memfd:") }
  }

  /// Where its GPU's chardev goes.
  struct Socket: Equatable {
    var path: String
    /// Name or number of its owner and group, and its permissions, such as `0600`.
    var owner: String
    var group: String
    var mode: String
    /// Whether QEMU's user could connect to it again.
    var isOpenToQEMU: Bool
    /// The program that listens there, with its process; nil where that cannot be seen.
    var listener: String?
  }

  var pid: Int32
  /// The name of its program, without a path.
  var program: String
  var user: String
  var commandLine: QEMUCommandLine
  /// Large memory, guest RAM among it; nil where it may not be looked at.
  var memory: [Memory]?
  /// Its AppArmor label, such as `libvirt-… (enforce)`; nil where there is none.
  var label: String?
  /// Paths on which a GPU's back-end is expected.
  var sockets: [Socket]
  /// A GPU's socket was handed over as a descriptor.
  var hasHandedSocket: Bool

  /// Looks at a process.
  ///
  /// - Throws: ``Command/Failure`` if there is none.
  package init(pid: Int32) throws(Failure) {
    self.pid = pid
    let place = "/proc/\(pid)"
    guard let line = ProcFile.bytes("\(place)/cmdline") else {
      throw Failure("--pid \(pid): there is no such process; pgrep -a qemu lists those of QEMU")
    }
    let words = line.split(separator: 0, omittingEmptySubsequences: false)
      .map { String(decoding: $0, as: UTF8.self) }
    let command = QEMUCommandLine(words)
    commandLine = command
    program = ProcFile.text("\(place)/comm")?.trimmed ?? words.first ?? ""
    // The name in /proc is cut off after 15 letters.
    if let first = words.first?.split(separator: "/").last, first.hasPrefix(program) {
      program = String(first)
    }
    let status = ProcFile.text("\(place)/status") ?? ""
    let ids = Ids(status)
    user = ProcFile.userName(ids.user)
    memory = Self.memory(place)
    label =
      ProcFile.text("\(place)/attr/apparmor/current")?.trimmed
      ?? ProcFile.text("\(place)/attr/current")?.trimmed
    if label?.isEmpty == true { label = nil }
    let chardevs = Self.gpuChardevs(command)
    sockets = chardevs.compactMap { $0.properties["path"] }.map { Self.socket($0, ids) }
    hasHandedSocket = chardevs.contains { $0.properties["fd"] != nil }
  }

  /// The facts as they are given.
  init(
    pid: Int32, program: String, user: String, commandLine: QEMUCommandLine, memory: [Memory]?,
    label: String?, sockets: [Socket], hasHandedSocket: Bool
  ) {
    self.pid = pid
    self.program = program
    self.user = user
    self.commandLine = commandLine
    self.memory = memory
    self.label = label
    self.sockets = sockets
    self.hasHandedSocket = hasHandedSocket
  }

  /// vhost-user GPUs, also as QEMU 11's generic device.
  static func isGPU(_ device: QEMUCommandLine.Option) -> Bool {
    if device.kind.hasPrefix("vhost-user-gpu") || device.kind.hasPrefix("vhost-user-vga") {
      return true
    }
    return ["vhost-user-test-device-pci", "vhost-user-device-pci"].contains(device.kind)
      && device.properties["virtio-id"] == "16"
  }

  private static func gpuChardevs(_ line: QEMUCommandLine) -> [QEMUCommandLine.Option] {
    let names = line.all("device").filter(isGPU).compactMap { $0.properties["chardev"] }
    return line.all("chardev").filter { names.contains($0.properties["id"] ?? "") }
  }

  // MARK: Memory

  private static func memory(_ place: String) -> [Memory]? {
    guard let maps = ProcFile.text("\(place)/maps"), !maps.isEmpty else { return nil }
    var found: [(inode: UInt64, memory: Memory)] = []
    for line in maps.split(separator: "\n") {
      let parts = line.split(separator: " ", maxSplits: 5, omittingEmptySubsequences: true)
      guard parts.count == 6, let inode = UInt64(parts[4]), inode > 0,
        parts[1].hasPrefix("rw"), let bytes = length(parts[0])
      else { continue }
      var path = String(parts[5]).trimmed
      if path.hasSuffix(" (deleted)") { path = String(path.dropLast(10)) }
      let isShared = parts[1].hasSuffix("s")
      if let at = found.firstIndex(where: { $0.inode == inode && $0.memory.isShared == isShared }) {
        found[at].memory.bytes &+= bytes
      } else {
        found.append(
          (
            inode,
            Memory(path: path, bytes: bytes, isShared: isShared, seals: nil, pageSize: 4096)
          ))
      }
    }
    // Smaller ones are libraries' data, rings, and ROMs.
    found.removeAll { $0.memory.bytes < 16 << 20 }
    addFacts(to: &found, place)
    return found.map(\.memory).sorted { $0.bytes > $1.bytes }
  }

  private static func length(_ range: Substring) -> UInt64? {
    let ends = range.split(separator: "-").compactMap { UInt64($0, radix: 16) }
    return ends.count == 2 && ends[1] >= ends[0] ? ends[1] - ends[0] : nil
  }

  private static func addFacts(
    to found: inout [(inode: UInt64, memory: Memory)], _ place: String
  ) {
    for name in (try? Folder.names(in: "\(place)/fd")) ?? [] {
      let path = "\(place)/fd/\(name)"
      guard let link = try? Folder.target(of: path),
        found.contains(where: { link.hasPrefix($0.memory.path) }),
        let fd = try? OwnedFD.open(path, O_RDONLY | O_NONBLOCK),
        let facts = try? FileFacts(of: fd.raw)
      else { continue }
      for at in found.indices where found[at].inode == facts.identity.inode {
        found[at].memory.seals = MemFD.seals(of: fd.raw)
        found[at].memory.pageSize = facts.pageSize
      }
    }
  }

  // MARK: Sockets

  /// Whom a process runs as.
  private struct Ids {
    var user: UInt32 = 0
    var groups: [UInt32] = []

    init(_ status: String) {
      for line in status.split(separator: "\n") {
        let parts = line.split { $0 == "\t" || $0 == " " }
        // Real, effective, saved, of the file system, which is what counts here.
        if parts.first == "Uid:", parts.count > 4 { user = UInt32(parts[4]) ?? 0 }
        if parts.first == "Gid:", parts.count > 4 { groups.append(UInt32(parts[4]) ?? 0) }
        if parts.first == "Groups:" { groups += parts.dropFirst().compactMap { UInt32($0) } }
      }
    }
  }

  private static func socket(_ path: String, _ ids: Ids) -> Socket {
    var facts = stat()
    guard stat(path, &facts) == 0 else {
      return Socket(
        path: path, owner: "", group: "", mode: "", isOpenToQEMU: false, listener: nil)
    }
    let mode = facts.st_mode & 0o777
    let isOpen =
      ids.user == 0 || ids.user == facts.st_uid && mode & 0o200 != 0
      || ids.groups.contains(facts.st_gid) && mode & 0o020 != 0 || mode & 0o002 != 0
    let digits = String(mode, radix: 8)
    return Socket(
      path: path, owner: ProcFile.userName(facts.st_uid),
      group: ProcFile.groupName(facts.st_gid),
      mode: String(repeating: "0", count: max(0, 4 - digits.count)) + digits,
      isOpenToQEMU: isOpen, listener: listener(on: path))
  }

  /// The process that listens on a path, as far as this user may see others' descriptors.
  private static func listener(on path: String) -> String? {
    var inodes: [Substring] = []
    for line in (ProcFile.text("/proc/net/unix") ?? "").split(separator: "\n") {
      let parts = line.split(separator: " ", maxSplits: 7, omittingEmptySubsequences: true)
      // The fourth has __SO_ACCEPTCON, 1 << 16, for those that listen.
      guard parts.count == 8, parts[7] == path, let flags = UInt32(parts[3], radix: 16),
        flags & 1 << 16 != 0
      else { continue }
      inodes.append(parts[6])
    }
    guard !inodes.isEmpty else { return nil }
    for process in ((try? Folder.names(in: "/proc")) ?? []).compactMap({ Int32($0) }) {
      for open in (try? Folder.descriptors(of: process)) ?? []
      where inodes.contains(where: { open.target == "socket:[\($0)]" }) {
        return "\(ProcFile.text("/proc/\(process)/comm")?.trimmed ?? "?") (process \(process))"
      }
    }
    return nil
  }
}

/// What /proc has of a process, and whose it is.
enum ProcFile {
  private static let most = 16 << 20

  /// All of a file; nil where it cannot be read.
  static func bytes(_ path: String) -> [UInt8]? { try? WholeFile.read(path, most: most) }

  /// All of a file; nil where it cannot be read.
  static func text(_ path: String) -> String? { WholeFile.text(path, most: most) }

  static func userName(_ id: UInt32) -> String {
    getpwuid(id).map { String(cString: $0.pointee.pw_name) } ?? "\(id)"
  }

  static func groupName(_ id: UInt32) -> String {
    getgrgid(id).map { String(cString: $0.pointee.gr_name) } ?? "\(id)"
  }
}

extension String {
  /// Without spaces and ends of lines around it.
  fileprivate var trimmed: String {
    let isSpace = { (letter: Character) in letter.isWhitespace || letter == "\0" }
    let start = self[...].drop(while: isSpace)
    guard let end = start.lastIndex(where: { !isSpace($0) }) else { return "" }
    return String(start[...end])
  }
}
