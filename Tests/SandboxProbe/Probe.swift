import CLinux
import Glibc
import Linux
import Sandbox

/// Confines itself, makes one call, and exits with its errno, or 0 if it worked.
///
/// usage: sandbox-probe STEPS CALL [PATH [REMOVABLE]]; STEPS is `off`, `files` (all but the filter), `on`,
/// `log`, `root` (an empty root directory in place of Landlock), `calls` (the filter alone, as
/// without Landlock), `rendering` (as a renderer) or `loading` (as a renderer that is still loading
/// its libraries), or a program whose filter alone applies: `sharing`, `input`, `bridge`, `viewing`,
/// `pipewire`. Files beside REMOVABLE can go.
@main
enum Probe {
  static func main() {
    let arguments = CommandLine.arguments
    guard arguments.count > 2 else { exit(200) }
    let path = arguments.count > 3 ? arguments[3] : ""
    // No core file of those that are killed.
    var none = rlimit(rlim_cur: 0, rlim_max: 0)
    setrlimit(__rlimit_resource_t(4), &none)
    guard let call = Calls(path).all[arguments[2]] else { exit(201) }
    let other = OtherThread(SharedCall(call))
    let isOther = arguments[2].hasPrefix("thread-")
    if isOther { other.start() }
    do { try confine(arguments[1], arguments.count > 4 ? arguments[4] : "") } catch {
      complain("\(error)")
      exit(202)
    }
    if isOther { exit(other.result()) }
    exit(call())
  }

  private static func confine(_ steps: String, _ path: String) throws(Sandbox.Failure) {
    guard steps != "off" else { return }
    if steps == "rendering" || steps == "loading" { return try confineRenderer(steps) }
    if steps == "calls" {
      return try Sandbox.restrictCalls(to: .serving(removesFiles: false), mode: .on)
    }
    // The filters of the other programs, as where there is no Landlock.
    let others: [String: CallPolicy] = [
      "sharing": .sharing(removesFiles: false), "input": .input(removesFiles: false),
      "bridge": .bridge(removesFiles: false), "viewing": .viewing(removesFiles: false),
      "pipewire": .pipeWire(),
    ]
    if let policy = others[steps] { return try Sandbox.restrictCalls(to: policy, mode: .on) }
    let directories = path.isEmpty ? [] : [Sandbox.directory(of: path)]
    let files = try Sandbox.confine(
      removingFilesIn: directories, withoutLandlock: steps == "root")
    if steps == "root", files != .emptyRoot { exit(203) }
    if steps == "on" || steps == "log" {
      try Sandbox.restrictCalls(to: .serving(), mode: steps == "on" ? .on : .log)
    }
  }

  private static func confineRenderer(_ steps: String) throws(Sandbox.Failure) {
    try Sandbox.confineToReading(devices: ["/dev/dri", "/dev/udmabuf"])
    guard steps == "rendering" else { return }
    _ = try Sandbox.confine()
    try Sandbox.restrictCalls(to: .rendering(drivesNode: false), mode: .on)
  }

  private static func complain(_ text: String) {
    print(text)
  }
}

/// A call that another thread makes.
struct SharedCall: @unchecked Sendable {
  let run: () -> CInt
  init(_ run: @escaping () -> CInt) { self.run = run }
}

/// A thread that exists already when the filter comes, and makes its call afterwards.
final class OtherThread: @unchecked Sendable {
  private let call: SharedCall
  private var thread: Thread?
  private var go: (CInt, CInt) = (-1, -1)
  private var back: (CInt, CInt) = (-1, -1)

  init(_ call: SharedCall) {
    self.call = call
    for end in 0..<2 {
      var ends: [CInt] = [-1, -1]
      guard pipe(&ends) == 0 else { continue }
      if end == 0 { go = (ends[0], ends[1]) } else { back = (ends[0], ends[1]) }
    }
  }

  func start() {
    let (call, from, to) = (call, go.0, back.1)
    thread = try? Thread("probe") {
      var byte: UInt8 = 0
      _ = read(from, &byte, 1)
      byte = UInt8(truncatingIfNeeded: call.run())
      _ = write(to, &byte, 1)
    }
  }

  func result() -> CInt {
    var byte: UInt8 = 0
    _ = write(go.1, &byte, 1)
    return read(back.0, &byte, 1) == 1 ? CInt(byte) : 204
  }
}
