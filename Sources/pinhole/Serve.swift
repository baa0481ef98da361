import ArgumentParser
import Buffers
import Command
import Daemon
import Fences
import Glibc
import GuestMemory
import Linux
import Logging
import QEMUDisplay
import Sandbox
import VirtioGPU

/// `pinhole serve`: the device itself.
struct Serve: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Serve a virtio GPU to QEMU or another vhost-user front-end.",
    discussion: """
      Start it before QEMU, then start QEMU with a shared memfd as guest memory:
        -object memory-backend-memfd,id=mem,size=2G,share=on -machine memory-backend=mem
        -chardev socket,id=gpu,path=PATH -device vhost-user-gpu-pci,chardev=gpu
      """)

  @Option(help: "Listen on this path and serve one front-end after another.")
  var socketPath: String?

  @Option(help: "Serve the front-end at the other end of this connected socket.")
  var fd: Int32?

  @Flag(help: "End with status 0 when the first front-end leaves, as managers of VMs expect.")
  var once = false

  @Option(help: "Answer `pinhole status` on this path.")
  var control: String?

  @Flag(help: "Print what this backend can do as JSON, as libvirt asks, and exit.")
  var printCapabilities = false

  @Option(help: "Offer frames to consumers such as `pinhole view` on this path.")
  var framesSocket: String?

  @Option(
    help: "The members of this group may connect to --frames-socket too, not its owner alone.")
  var framesGroup: GroupName?

  @Option(help: "How pictures are shown: auto, direct (the guest's pages) or copy.")
  var scanout: ScanoutMode = .auto

  @Option(help: "What QEMU's display gets: auto, pixels, dmabuf (needs one with gl=on) or off.")
  var qemuDisplay: QEMUDisplayChoice = .auto

  @Option(help: "How discarded pages are found: auto, scan, pagemap or faults.")
  var detector: DetectorChoice = .auto

  @Option(
    help: """
      When pages are looked at between flushes: auto (not where flushes come steadily), or always \
      (every 5 ms).
      """)
  var looks: Looks = .auto

  @Option(help: "What follows a discard: republish, or report, which repairs nothing.")
  var onDiscard: DiscardResponse = .republish

  @Option(
    help: ArgumentHelp(
      "Milliseconds that consumers may keep a fenced flush waiting; Linux guests wait for 50.",
      valueName: "ms"))
  var holdDeadline = UInt32(HoldQueue.defaultDeadline / 1_000_000)

  @Option(
    help: ArgumentHelp(
      "End the process once its event loop has not turned for so long; 0 for never.",
      valueName: "seconds"))
  var watchdog: UInt32 = 30

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @OptionGroup(title: "3D") var render: RenderOptions

  @OptionGroup(title: "Budgets") var budgets: BudgetOptions

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  // Not validate(), which ArgumentParser calls before it finds unknown options.
  private func checkCombination() throws {
    if printCapabilities { return }
    let isActivated = getenv("LISTEN_FDS") != nil
    if socketPath == nil, fd == nil, !isActivated {
      throw ValidationError("give --socket-path PATH or --fd N, so that a front-end can connect")
    }
    if socketPath != nil, fd != nil {
      throw ValidationError("--socket-path and --fd exclude each other: give one of them")
    }
    if framesGroup != nil, framesSocket == nil {
      throw ValidationError("--frames-group needs --frames-socket PATH")
    }
    if let fd, fd < 0 { throw ValidationError("--fd \(fd) is not a descriptor") }
    let paths = [socketPath, framesSocket, control].compactMap { $0 }
    if paths.contains(where: \.isEmpty) {
      throw ValidationError("a socket path cannot be empty")
    }
    if Set(paths).count < paths.count {
      throw ValidationError("--socket-path, --frames-socket and --control need different paths")
    }
    if !(1...10_000).contains(holdDeadline) {
      throw ValidationError("--hold-deadline takes 1 to 10000 ms")
    }
  }

  func run() throws {
    try checkCombination()
    if printCapabilities {
      let features = RenderingOptions.features(render.place).map { "\"\($0)\"" }
      print(#"{"type": "gpu", "features": [\#(features.joined(separator: ", "))]}"#)
      return
    }
    let limit = LogLines.bootstrap(level: logLevel, perSecond: budgets.maxLogLines)
    try Daemon(options, limit).run()
  }

  /// What they say to the daemon.
  var options: DaemonOptions {
    var options = DaemonOptions()
    options.socketPath = socketPath
    options.fd = fd
    options.once = once
    options.control = control
    options.framesSocket = framesSocket
    if let framesGroup { options.framesAccess = .group(framesGroup.id) }
    options.qemuDisplay = qemuDisplay.way
    options.detector = Detector(rawValue: detector.rawValue)
    options.onDiscard = detector == .none ? .ignore : onDiscard
    options.holdDeadline = UInt64(holdDeadline) * 1_000_000
    options.watchdog = watchdog
    options.sandbox = sandbox
    options.device.mode = scanout
    options.device.looksAlways = looks == .always
    budgets.apply(to: &options)
    render.apply(to: &options)
    return options
  }
}

extension ScanoutMode: ExpressibleByArgument {}

extension DiscardResponse: ExpressibleByArgument {
  /// What `--help` offers; the third is for experiments alone.
  public static var allValueStrings: [String] { ["republish", "report"] }
}

/// `--qemu-display`. Nothing tells whether QEMU's display has OpenGL, so `auto` is `pixels`.
enum QEMUDisplayChoice: String, ExpressibleByArgument, CaseIterable {
  case auto, pixels, dmabuf, off

  var way: QEMUDisplay.Way? {
    switch self {
    case .auto, .pixels: .pixels
    case .dmabuf: .dmabuf
    case .off: nil
    }
  }
}

/// `--looks`.
enum Looks: String, ExpressibleByArgument, CaseIterable { case auto, always }

/// `--detector`.
enum DetectorChoice: String, ExpressibleByArgument, CaseIterable {
  case auto, scan, pagemap, faults
  /// Nothing looks after discarded pages. Unsafe: for `pinhole-guest storm` to show what happens.
  case none

  static var allValueStrings: [String] { allCases.filter { $0 != .none }.map(\.rawValue) }
}
