import ArgumentParser
import Buffers
import Command
import FrameProtocol
import FrameServer
import Glibc
import Linux
import Logging
import PinholeFrames
import Sandbox
import Scene
import Sharing

/// `pinhole share`: a process of its own between the device and programs that nobody trusts.
struct Share: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Show copies of a producer's frames to programs that are not trusted.",
    discussion: """
      It is an ordinary consumer of --frames-socket and copies each frame once, so that whoever \
      connects to --copy-socket can take nothing from the guest but the picture, and not delay it. \
      It ends with the producer: have your service manager start it again.
      """)

  @Option(help: "The producer's socket.")
  var framesSocket: String

  @Option(help: "Offer read-only copies on this path, to this user's programs.")
  var copySocket: String

  @Option(help: "The members of this group may connect to --copy-socket too.")
  var copyGroup: GroupName?

  @Flag(help: "Everybody who can reach --copy-socket may connect.")
  var anyone = false

  @Option(help: "Programs that may be connected.")
  var maxConsumers = 32

  @Option(help: "Memory for copies, such as 512M.")
  var maxMemory = ByteCount(512 << 20)

  @Option(help: "Log lines a second; 0 for as many as there are.")
  var maxLogLines = 100

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  var sandbox: Sandbox.Mode = .on

  @Option(
    help: ArgumentHelp(
      "End the process once its event loop has not turned for so long; 0 for never.",
      valueName: "seconds"))
  var watchdog: UInt32 = 30

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  var logLevel: Logger.Level = .info

  private var access: UnixSocket.Access {
    if anyone { return .anyone }
    return copyGroup.map { .group($0.id) } ?? .owner
  }

  func run() throws {
    guard !anyone || copyGroup == nil else {
      throw ValidationError("--copy-group and --anyone exclude each other: give one of them")
    }
    guard !framesSocket.isEmpty, !copySocket.isEmpty, framesSocket != copySocket else {
      throw ValidationError("--frames-socket and --copy-socket need different paths")
    }
    guard maxConsumers > 0, maxLogLines >= 0 else {
      throw ValidationError("--max-consumers must be at least 1, --max-log-lines not negative")
    }
    let lines = LogLines.bootstrap(level: logLevel, perSecond: maxLogLines)
    LogOutput.prepare()
    let signals = try explain("cannot receive signals") { () throws(Errno) in
      try Signals.descriptor(for: [SIGTERM, SIGINT, SIGUSR1])
    }
    _ = try? Descriptors.reserveForMessages()
    Foreign.prepare()
    let log = Logger(label: "pinhole")
    let loop = try explain("cannot start the event loop") { () throws(Errno) in try EventLoop() }
    let consumer = try connect()
    let scene = Scene(memory: CopyMemory(limit: maxMemory.bytes))
    let server = try serve(scene, on: loop, log)
    let feed = try explain("cannot watch --frames-socket") { () throws(Errno) in
      try ShareFeed(consumer, scene, server, on: loop, log: log)
    }
    var failure: Failure?
    feed.ended = {
      failure = Failure("--frames-socket \(framesSocket): \($0)")
      loop.stop()
    }
    // The loop keeps this, and both keep the loop.
    try watch(signals, loop) { [unowned feed, unowned server] in
      LogLines.makeRoom(lines)
      log.notice("\(Self.describe(feed, server))")
    }
    var dog: Watchdog?
    let confinement = try Sandbox.enter(sandbox, policy: .sharing(), removing: [copySocket]) {
      () throws(Failure) in
      dog = try explain("cannot start threads") { () throws(Errno) in
        try Closers.start()
        return try Watchdog.endingTheProcess(over: loop, after: watchdog, log)
      }
    }
    log.info("pinhole \(pinholeVersion) shares \(framesSocket) on \(copySocket); \(confinement)")
    try explain("the event loop failed") { () throws(Errno) in try loop.run() }
    server.close()
    LogLines.makeRoom(lines)
    log.info("\(Self.describe(feed, server))")
    withExtendedLifetime(dog) {}
    if let failure { throw failure }
  }

  /// The producer may be starting at the same time.
  private func connect() throws(Failure) -> FrameConsumer {
    let options = FrameConsumer.Options(name: "pinhole share", copyOnly: true, isExplicit: true)
    let deadline = Clock.now + 10_000_000_000
    while true {
      do throws(FramesError) {
        return try FrameConsumer(path: framesSocket, options: options)
      } catch {
        guard case .cannotConnect(_, let errno) = error,
          [ENOENT, ECONNREFUSED, ETIMEDOUT].contains(errno.code), Clock.now < deadline
        else { throw Failure("--frames-socket: \(error)") }
      }
      usleep(50_000)
    }
  }

  private func serve(
    _ scene: Scene, on loop: EventLoop, _ log: Logger
  ) throws(Failure) -> FrameServer {
    var settings = FrameServer.Options()
    settings.maxConsumers = maxConsumers
    let server = FrameServer(scene, loop: loop, options: settings, log: log)
    do throws(ListenError) {
      try server.listen(copySocket, access: access, copiesOnly: true)
    } catch { throw Failure("--copy-socket: \(error)") }
    return server
  }

  private func watch(
    _ signals: borrowing OwnedFD, _ loop: EventLoop, _ report: @escaping () -> Void
  ) throws(Failure) {
    try explain("cannot watch signals") { () throws(Errno) in
      try loop.stop(on: signals) { number in
        guard number == SIGUSR1 else { return false }
        report()
        return true
      }
    }
  }

  private static func describe(_ feed: ShareFeed, _ server: FrameServer) -> String {
    let pairs: [(String, UInt64)] = [
      ("frames", feed.counters.frames), ("copied-bytes", feed.counters.copiedBytes),
      ("waits", feed.counters.waits), ("starved", feed.counters.starved),
      ("consumers", server.counters.consumers),
      ("refused", server.counters.refused), ("sent", server.counters.framesSent),
      ("done", server.counters.framesDone), ("timeouts", server.counters.copiesLate),
    ]
    return "counters: " + pairs.map { "\($0.0) \($0.1)" }.joined(separator: ", ")
  }
}
