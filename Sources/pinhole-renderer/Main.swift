import ArgumentParser
import Glibc
import Linux
import Sandbox

extension Sandbox.Mode: ExpressibleByArgument {}

/// `pinhole-renderer`: draws what guests ask for, in processes of its own.
@main
struct PinholeRenderer: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pinhole-renderer",
    abstract: "Renders a guest's OpenGL for `pinhole serve --3d`, which starts it.")

  @Option(help: "The connected SOCK_SEQPACKET socket of `pinhole serve`.")
  var control: Int32

  @Option(help: "Draw with this render node; on llvmpipe without.")
  var renderNode: String?

  @Option(help: "Bytes of memory that one renderer may take, besides the guest's.")
  var memory: UInt64 = 2 << 30

  @Option(help: "Threads that llvmpipe draws with.")
  var threads: Int = 1

  @Option(help: "on, off or log, as for `pinhole serve`.")
  var sandbox: Sandbox.Mode = .on

  @Flag(inversion: .prefixedNo, help: "Keep one renderer ready for the next life of the guest.")
  var spare = true

  @Flag(help: "Show what the libraries write to standard error.")
  var verbose = false

  func run() throws {
    guard UnixSocket.isSocket(control, kind: .seqpacket) else {
      throw ValidationError("--control \(control) is not a connected SOCK_SEQPACKET socket")
    }
    // It ends with its socket: what ends the service, or a whole terminal, lets that end it.
    Signals.ignoreSIGPIPE()
    signal(SIGINT, SIG_IGN)
    signal(SIGTERM, SIG_IGN)
    var limits = RendererLimits()
    limits.memory = memory
    limits.threads = max(threads, 1)
    limits.sandbox = sandbox
    limits.node = renderNode
    limits.isVerbose = verbose
    let starter = try Starter(
      control: OwnedFD(adopting: control), limits: limits, keepsSpare: spare)
    try starter.run()
  }
}
