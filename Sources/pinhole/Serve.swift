import ArgumentParser
import Buffers
import GuestMemory
import Linux
import Logging
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

  @Flag(help: "Print what this backend can do as JSON, as libvirt asks, and exit.")
  var printCapabilities = false

  @Option(help: "Offer frames to consumers such as `pinhole view` on this path.")
  var framesSocket: String?

  @Option(help: "Offer read-only copies of frames on this path, to programs that are not trusted.")
  var copySocket: String?

  @Option(
    name: .customLong("allow-uid"),
    help: "A user besides your own whose programs may connect to the frame sockets; repeatable.")
  var allowedUsers: [UInt32] = []

  @Option(
    name: .customLong("allow-copy-uid"),
    help: "A user whose programs may connect to the copy socket alone; repeatable.")
  var allowedCopyUsers: [UInt32] = []

  @Option(help: "How pictures are shown: auto, direct (the guest's pages) or copy.")
  var scanout: ScanoutMode = .auto

  @Option(help: "What QEMU's display gets: auto, pixels, dmabuf (needs one with gl=on) or off.")
  var qemuDisplay: QEMUDisplayChoice = .auto

  @Option(help: "How discarded pages are found: auto, scan, pagemap or faults.")
  var detector: DetectorChoice = .auto

  @Option(help: "What follows a discard: republish, or report, which repairs nothing.")
  var onDiscard: DiscardResponse = .republish

  @Option(
    help: ArgumentHelp(
      "Milliseconds that consumers may keep a fenced flush waiting; Linux guests wait for 50.",
      valueName: "ms"))
  var holdDeadline: UInt32 = 40

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @OptionGroup(title: "Budgets") var budgets: BudgetOptions

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  // Not validate(), which ArgumentParser calls before it finds unknown options.
  private func checkCombination() throws {
    if printCapabilities { return }
    if socketPath == nil, fd == nil {
      throw ValidationError("give --socket-path PATH or --fd N, so that a front-end can connect")
    }
    if socketPath != nil, fd != nil {
      throw ValidationError("--socket-path and --fd exclude each other: give one of them")
    }
    if let fd, fd < 0 { throw ValidationError("--fd \(fd) is not a descriptor") }
    let paths = [socketPath, framesSocket, copySocket].compactMap { $0 }
    if paths.contains(where: \.isEmpty) {
      throw ValidationError("a socket path cannot be empty")
    }
    if Set(paths).count < paths.count {
      throw ValidationError(
        "--socket-path, --frames-socket and --copy-socket need different paths")
    }
    if !(1...10_000).contains(holdDeadline) {
      throw ValidationError("--hold-deadline takes 1 to 10000 ms")
    }
  }

  func run() throws {
    try checkCombination()
    if printCapabilities {
      print(#"{"type": "gpu", "features": []}"#)
      return
    }
    let level = logLevel
    let limit = Locked(LineLimit(perSecond: budgets.maxLogLines))
    LoggingSystem.bootstrap { _ in
      var handler = LogLines(limit: limit)
      handler.logLevel = level
      return handler
    }
    try Daemon(self, limit).run()
  }
}

extension ScanoutMode: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}

extension DiscardResponse: ExpressibleByArgument {
  /// What `--help` offers; the third is for experiments alone.
  public static var allValueStrings: [String] { ["republish", "report"] }
}

/// `--qemu-display`. Nothing tells whether QEMU's display has OpenGL, so `auto` is `pixels`.
enum QEMUDisplayChoice: String, ExpressibleByArgument, CaseIterable {
  case auto, pixels, dmabuf, off
}

/// `--detector`.
enum DetectorChoice: String, ExpressibleByArgument, CaseIterable {
  case auto, scan, pagemap, faults
  /// Nothing looks after discarded pages. Unsafe: for `pinhole guest storm` to show what happens.
  case none

  static var allValueStrings: [String] { allCases.filter { $0 != .none }.map(\.rawValue) }
}
