import ArgumentParser
import Buffers
import CLinux
import Command
import Daemon
import FakeGuest
import Glibc
import Linux
import Logging

@testable import pinhole

/// Pinhole as tests use it: a process of its own, or a thread of this one.
protocol RunningPinhole: AnyObject {
  var socket: String { get }
  var framesSocket: String { get }
  var log: String { get }
  func signal(_ number: CInt)
  func terminate() -> CInt?
}

extension PinholeProcess: RunningPinhole {
  func signal(_ number: CInt) { child.signal(number) }
  func terminate() -> CInt? { terminate(milliseconds: 10_000) }
}

/// A process with the real /dev/udmabuf, or a thread with ``PagePipes``.
func startPinhole(_ options: [String] = []) throws -> any RunningPinhole {
  hasUdmabuf ? try PinholeProcess(options) : try PinholeThread(options)
}

extension RunningPinhole {
  /// The numbers that it logs when it is asked, by name.
  func counters() throws -> [String: Int] {
    let before = log.split(separator: "\n").count { $0.contains("counters:") }
    signal(SIGUSR1)
    let deadline = Clock.now + 20_000_000_000
    while log.split(separator: "\n").count(where: { $0.contains("counters:") }) == before {
      guard Clock.now < deadline else { throw Errno(ETIMEDOUT, "counters") }
      usleep(1000)
    }
    let line = log.split(separator: "\n").last { $0.contains("counters:") } ?? ""
    var numbers: [String: Int] = [:]
    for pair in line.split(separator: ":").last?.split(separator: ",") ?? [] {
      let words = pair.split(separator: " ")
      if words.count == 2 { numbers[String(words[0])] = Int(words[1]) }
    }
    return numbers
  }

  /// Waits until its counters are so.
  func waits(milliseconds: Int = 20_000, _ condition: ([String: Int]) -> Bool) throws -> Bool {
    let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
    repeat {
      if condition(try counters()) { return true }
      usleep(5000)
    } while Clock.now < deadline
    return false
  }
}

/// The daemon as it is, in a thread of this process: without its sandbox, and with pipes of pages
/// where there is no /dev/udmabuf.
final class PinholeThread: RunningPinhole {
  private struct State {
    var thread: pid_t = 0
    var isOver = false
    var failure: String?
  }

  let socket: String
  let framesSocket: String
  private let directory: TemporaryDirectory
  private let state = Locked(State())
  private let lines = Locked("")
  private var thread: ThreadBox?

  private final class ThreadBox {
    private let thread: Linux.Thread
    init(_ thread: consuming Linux.Thread) { self.thread = thread }
  }

  /// Starts it and waits until it serves.
  ///
  /// - Parameter prepare: sees the buffer store in its thread before anything is served.
  init(
    _ options: [String] = [], prepare: @escaping @Sendable (BufferStore) -> Void = { _ in }
  ) throws {
    directory = try TemporaryDirectory()
    socket = directory.file("vhost-user")
    framesSocket = directory.file("frames")
    LinesByThread.install()
    let arguments =
      ["--socket-path", socket, "--frames-socket", framesSocket, "--sandbox", "off"] + options
    let (state, lines) = (self.state, self.lines)
    let thread = try Linux.Thread("pinhole") {
      state.withLock { $0.thread = ph_gettid() }
      do {
        let serve = try Serve.parse(arguments)
        LinesByThread.collect(serve.logLevel, in: lines)
        let daemon = try Daemon(
          serve.options, Locked(LineLimit(perSecond: 0)),
          udmabuf: Result { () throws(CopyReason) in try anyUdmabuf(named: true) })
        prepare(daemon.store)
        try daemon.run()
      } catch { state.withLock { $0.failure = "\(error)" } }
      state.withLock { $0.isOver = true }
    }
    self.thread = ThreadBox(thread)
    let deadline = Clock.now + 20_000_000_000
    while !PinholeProcess.isListening(on: [socket, framesSocket]) {
      if let failure = state.withLock({ $0.failure }) { throw Failure(failure) }
      guard Clock.now < deadline else { throw Failure("pinhole does not listen: \(log)") }
      usleep(500)
    }
  }

  deinit { _ = terminate() }

  private func tgkill(_ thread: pid_t, _ number: CInt) {
    _ = ph_raw_call(234, Int(getpid()), Int(thread), Int(number))
  }

  var log: String { lines.withLock { $0 } }

  func signal(_ number: CInt) {
    let (thread, isOver) = state.withLock { ($0.thread, $0.isOver) }
    if !isOver, thread != 0 { tgkill(thread, number) }
  }

  func terminate() -> CInt? {
    signal(SIGTERM)
    let deadline = Clock.now + 10_000_000_000
    while !state.withLock({ $0.isOver }) {
      guard Clock.now < deadline else { return nil }
      usleep(500)
    }
    return state.withLock { $0.failure } == nil ? 0 : 1
  }
}

/// Log lines go to whoever collects those of the thread that made the logger.
private struct LinesByThread: LogHandler {
  private struct Sink {
    let level: Logger.Level
    let lines: Locked<String>
  }

  private static let sinks = Locked<[pid_t: Sink]>([:])
  private static let installed: Void = LoggingSystem.bootstrap { _ in LinesByThread() }
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level
  private let lines: Locked<String>?

  private init() {
    let sink = Self.sinks.withLock { $0[ph_gettid()] }
    logLevel = sink?.level ?? .critical
    lines = sink?.lines
  }

  static func install() { _ = installed }
  static func collect(_ level: Logger.Level, in lines: Locked<String>) {
    sinks.withLock { $0[ph_gettid()] = Sink(level: level, lines: lines) }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let prefix = event.level == .info ? "" : "\(event.level): "
    lines?.withLock { $0 += "pinhole: \(prefix)\(event.message)\n" }
  }
}
