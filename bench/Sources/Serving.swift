import FakeGuest
import Glibc
import Linux
import PinholeFrames

/// A back-end that runs, with its log out of sight.
final class Serving {
  private let path: String
  private let child: ChildProcess
  private let directory: TemporaryDirectory

  init(_ backEnd: BackEnd) throws(GuestError) {
    directory = try TemporaryDirectory()
    path = directory.file("gpu.sock")
    let log = directory.file("log")
    let out: OwnedFD
    do throws(Errno) { out = try OwnedFD.open(log, O_WRONLY | O_CREAT | O_APPEND) } catch {
      throw .system(log, error)
    }
    child = try ChildProcess.start(backEnd.command(path), fds: [(out.raw, 1), (out.raw, 2)])
  }

  /// Its process.
  var pid: CInt { child.pid }
  /// Nanoseconds of processor time that it has had so far.
  var processorTime: UInt64 { Machine.processorTime(of: pid) }
  /// Where consumers of ``BackEnd/consumers(_:)`` connect.
  var frames: String { Self.frames(beside: path) }

  static func frames(beside path: String) -> String { path + "-frames" }

  /// A front-end with a guest's memory, once the back-end listens.
  func connect(_ ram: GuestRAM) throws(GuestError) -> VhostUserFrontEnd {
    var options = VhostUserFrontEnd.Options()
    options.display = false
    let deadline = Clock.now + 60_000_000_000
    while true {
      do throws(GuestError) {
        return try VhostUserFrontEnd(path: path, ram: ram, options)
      } catch {
        guard child.status == nil, Clock.now < deadline else { throw error }
        usleep(5000)
      }
    }
  }
}

/// A consumer that answers each frame at once, in a thread of its own.
final class ConsumerThread {
  /// When its frames came.
  let arrivals = Arrivals()
  private let socket: SharedFD
  private var thread: Thread?

  init(_ path: String, copyOnly: Bool = false) throws(GuestError) {
    let consumer: FrameConsumer
    do throws(FramesError) {
      consumer = try FrameConsumer(
        path: path, options: .init(name: "bench", copyOnly: copyOnly, isExplicit: true))
    } catch { throw .unsupported("\(error)") }
    do throws(Errno) {
      socket = SharedFD(try OwnedFD.duplicate(of: consumer.fd))
      try start(Box(consumer, arrivals))
    } catch { throw .system("a consumer's thread", error) }
  }

  private func start(_ box: Box) throws(Errno) {
    thread = try Thread("bench-consumer") { box.consume() }
  }

  deinit {
    UnixSocket.shutDown(socket.raw)
    thread = nil
  }

  /// Moves a consumer into its thread; nobody else has it.
  private final class Box: @unchecked Sendable {
    private let consumer: FrameConsumer
    private let arrivals: Arrivals

    init(_ consumer: FrameConsumer, _ arrivals: Arrivals) {
      self.consumer = consumer
      self.arrivals = arrivals
    }

    func consume() {
      do throws(FramesError) {
        while let event = try consumer.next() {
          guard case .frame(let frame) = event else { continue }
          arrivals.note(isCopy: frame.copyReason != nil)
          try consumer.done(frame)
        }
      } catch {}
    }
  }
}
