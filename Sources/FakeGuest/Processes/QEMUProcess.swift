import Glibc
import Linux

/// A real QEMU whose processor halts at once, so that we play its guest through qtest.
///
/// Its RAM is a memfd that we map too.
package final class QEMUProcess {
  /// How to start it.
  package struct Options: Sendable {
    /// `-device` arguments.
    package var devices: [String] = []
    /// Anything else, for example `-chardev`.
    package var arguments: [String] = []
    /// MiB of RAM.
    package var megabytes = 256
    /// What follows `-display`.
    package var display = "none"
    /// Nothing but RAM.
    package init() {}
  }

  private static var program: String {
    getenv("PINHOLE_QEMU").map { String(cString: $0) } ?? "qemu-system-x86_64"
  }

  /// The major version of the QEMU that would be started, nil if there is none.
  package static let majorVersion: Int? = {
    guard let directory = try? TemporaryDirectory() else { return nil }
    let path = directory.file("version")
    guard let out = try? OwnedFD.open(path, O_WRONLY | O_CREAT),
      let child = try? ChildProcess(
        [program, "--version"], fds: [(out.raw, 1), (out.raw, 2)]),
      child.waitForEnd(milliseconds: 30_000) == 0, let text = WholeFile.text(path)
    else { return nil }
    let words = text.split(separator: " ")
    guard let at = words.firstIndex(of: "version"), at + 1 < words.count else { return nil }
    return Int(words[at + 1].prefix { $0 != "." })
  }()

  /// The process.
  package let child: ChildProcess
  /// The guest's RAM.
  package let ram: GuestRAM
  /// The monitor.
  package let monitor: QMPClient
  let qtest: LineSocket
  private let directory: TemporaryDirectory

  /// Starts QEMU and connects to it.
  ///
  /// - Throws: ``GuestError/unsupported(_:)`` with QEMU's own words if it does not start.
  package init(_ options: Options) throws(GuestError) {
    directory = try TemporaryDirectory()
    let rom = directory.file("halt.bin")
    try withFile { () throws(WholeFile.Failure) in try WholeFile.write(Self.haltROM, to: rom) }
    let log = directory.file("log")
    let out = try doing(log) { () throws(Errno) in try OwnedFD.open(log, O_WRONLY | O_CREAT) }
    child = try ChildProcess.start(
      Self.command(options, in: directory), fds: [(out.raw, 1), (out.raw, 2)])
    do {
      qtest = try LineSocket(directory.file("qtest"), name: "QEMU's qtest", to: child)
      monitor = try QMPClient(directory.file("qmp"), of: child)
    } catch {
      let text = WholeFile.text(log) ?? ""
      throw .unsupported("QEMU does not start: \(error) \(text)")
    }
    ram = try GuestRAM(
      adopting: Self.memory(of: child.pid),
      regions: GuestRAM.pcRegions(size: UInt64(options.megabytes) << 20))
  }

  private static func command(_ options: Options, in directory: TemporaryDirectory) -> [String] {
    let size = "\(options.megabytes)M"
    var command = [
      program, "-accel", "tcg", "-machine", "pc,memory-backend=mem", "-m", size,
      "-object", "memory-backend-memfd,id=mem,size=\(size),share=on",
      "-bios", directory.file("halt.bin"), "-nodefaults", "-no-user-config", "-vga", "none",
      "-display", options.display,
      "-qtest", "unix:\(directory.file("qtest")),server=on,wait=off", "-qtest-log", "/dev/null",
      "-qmp", "unix:\(directory.file("qmp")),server=on,wait=off",
    ]
    for device in options.devices { command += ["-device", device] }
    return command + options.arguments
  }

  /// 64 KiB that the processor starts at its end: `cli; hlt; jmp` back.
  private static var haltROM: [UInt8] {
    var rom = [UInt8](repeating: 0xf4, count: 65536)
    rom.replaceSubrange(0xfff0..<0xfff4, with: [0xfa, 0xf4, 0xeb, 0xfd])
    return rom
  }

  private static func memory(of pid: CInt) throws(GuestError) -> OwnedFD {
    var text = [CChar](repeating: 0, count: 256)
    for number in 0..<512 {
      let path = "/proc/\(pid)/fd/\(number)"
      let count = readlink(path, &text, text.count)
      guard count > 0 else { continue }
      let link = String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      guard link.contains("memory-backend-memfd") else { continue }
      return try doing("QEMU's RAM at \(path)") { () throws(Errno) in
        try OwnedFD.open(path, O_RDWR)
      }
    }
    throw .unsupported("QEMU \(pid) has no memory-backend-memfd")
  }

  /// What QEMU wrote to its standard output and error.
  package var log: String {
    WholeFile.text(directory.file("log")) ?? ""
  }

  /// What a console shows.
  ///
  /// - Parameter device: the id of a display device; the first console if nil.
  package func screendump(device: String? = nil) throws(GuestError) -> Raster {
    let path = directory.file("screen.ppm")
    try monitor.run(
      "screendump",
      ["filename": path].merging(
        device.map { ["device": $0] } ?? [:], uniquingKeysWith: { a, _ in a }))
    let picture = try withFile { () throws(WholeFile.Failure) in try WholeFile.read(path) }
    return try Raster(ppm: picture)
  }
}

/// QEMU's monitor, one command at a time.
package final class QMPClient {
  private let socket: LineSocket

  /// Connects, and returns once QEMU greets.
  ///
  /// It greets as soon as it waits for anything, which a device that is being made does too:
  /// ``waitUntilRealized(_:)`` tells when that is over.
  package init(_ path: String, of child: ChildProcess) throws(GuestError) {
    socket = try LineSocket(path, name: "QEMU's monitor", to: child)
    _ = try socket.line()
    try run("qmp_capabilities")
  }

  /// Runs a command whose arguments are strings; events meanwhile are dropped.
  ///
  /// - Returns: the line with its `return`, as QEMU wrote it.
  @discardableResult
  package func run(
    _ command: String, _ arguments: [String: String] = [:]
  ) throws(GuestError) -> String {
    let pairs = arguments.map { "\(Self.quoted($0.key)): \(Self.quoted($0.value))" }
    try socket.send(
      "{\"execute\": \(Self.quoted(command)), \"arguments\": {\(pairs.joined(separator: ", "))}}")
    while true {
      let line = try socket.line()
      if line.hasPrefix("{\"return\"") { return line }
      if line.hasPrefix("{\"error\"") { throw .unsupported("QEMU's \(command): \(line)") }
    }
  }

  /// Returns once a device is made, at most 20 s later.
  ///
  /// - Parameter device: its id.
  package func waitUntilRealized(_ device: String) throws(GuestError) {
    let deadline = Clock.now + 20_000_000_000
    while true {
      let answer = try? run(
        "qom-get", ["path": "/machine/peripheral/\(device)", "property": "realized"])
      if answer?.contains("true") == true { return }
      guard Clock.now < deadline else { throw .timedOut("QEMU's device \(device)") }
      usleep(20_000)
    }
  }

  private static func quoted(_ text: String) -> String {
    var out = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": out += "\\\(scalar)"
      case _ where scalar.value < 0x20:
        let hex = String(scalar.value, radix: 16)
        out += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
      default: out.unicodeScalars.append(scalar)
      }
    }
    return out + "\""
  }
}
