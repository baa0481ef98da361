import ArgumentParser
import Command
import Glibc
import HelperOptions
import Linux
import Logging
import Sandbox
import VNC

/// `pinhole vnc`: a guest's screen, keyboard and pointer for VNC viewers.
@main
struct VNCCommand: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole vnc",
    abstract: VNCOptions.abstract,
    discussion: """
      It has no password and no encryption, so it listens on this machine's own addresses alone; \
      from elsewhere come through ssh -L. The second output is at the next port, or at the path \
      with .1 behind it.

      Ends with SIGTERM or SIGINT and exit status 0; 1 when it cannot listen or connect.
      """,
    version: pinholeFullVersion)

  static func main() { runAsProgram() }

  @OptionGroup var options: VNCOptions

  func validate() throws {
    guard VNCAddress(options.listen) != nil else {
      throw ValidationError(
        "--listen takes a numeric address with a port, or a path with a slash; "
          + "\(options.listen) is neither"
      )
    }
    guard (1...16).contains(options.outputs) else {
      throw ValidationError("--outputs takes 1 to 16")
    }
    guard (1...1000).contains(options.maxViewers) else {
      throw ValidationError("--max-viewers takes 1 to 1000")
    }
    guard (1...86_400).contains(options.timeout) else {
      throw ValidationError("--timeout takes 1 to 86400 seconds")
    }
  }

  func run() throws {
    LogLines.bootstrap(level: options.logLevel, perSecond: 20)
    let log = Logger(label: "vnc")
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT])
    }
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let bridge: VNCBridge
    do throws(VNCBridge.Failure) {
      bridge = try VNCBridge(bridgeOptions, on: loop, log: log)
    } catch { throw Failure("vnc: \(error)") }
    let confined = try Sandbox.enter(
      options.sandbox, policy: .viewing(), removing: bridge.paths, keepsRoot: true)
    log.info("\(confined)")
    for (output, address) in bridge.addresses.enumerated() {
      log.info("viewers of output \(output) connect to \(address)")
    }
    try explain("the event loop failed") { () throws(Errno) in
      try loop.stop(on: signals)
      try loop.run()
    }
  }

  private var bridgeOptions: VNCBridge.Options {
    let keyboard = options.keyboard.split(separator: ":", maxSplits: 1).map { String($0) }
    var bridge = VNCBridge.Options(
      frames: options.frames,
      address: VNCAddress(options.listen) ?? .loopback("127.0.0.1", port: 5900))
    bridge.input = options.input
    bridge.outputs = options.outputs
    bridge.name = options.desktop
    bridge.layout = keyboard.first ?? "us"
    bridge.variant = keyboard.count > 1 ? keyboard[1] : ""
    bridge.maxViewers = options.maxViewers
    bridge.timeout = UInt64(options.timeout) * 1_000_000_000
    return bridge
  }
}
