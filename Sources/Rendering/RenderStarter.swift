import CLinux
import Glibc
import Linux
import RenderWire

/// The daemon's end of the process that starts renderers, `pinhole-renderer`.
package final class RenderStarter {
  /// How that process runs.
  package struct Options: Sendable {
    /// Path of `pinhole-renderer`.
    package var program: String
    /// The render node's path; nil for llvmpipe.
    package var node: String?
    /// Bytes of private memory of one renderer.
    package var memory: UInt64 = 2 << 30
    /// llvmpipe's threads.
    package var threads = 1
    /// One renderer more is kept ready.
    package var keepsSpare = true
    /// `on`, `off` or `log`.
    package var sandbox = "on"
    /// What the libraries write is shown.
    package var isVerbose = false

    package init(program: String) { self.program = program }

    var arguments: [String] {
      [
        program, "--control", "3", "--memory", "\(memory)", "--threads", "\(threads)", "--sandbox",
        sandbox, keepsSpare ? "--spare" : "--no-spare",
      ] + (node.map { ["--render-node", $0] } ?? []) + (isVerbose ? ["--verbose"] : [])
    }
  }

  /// What it tells.
  package enum News {
    /// A renderer runs, which may not be ready yet.
    case started(UInt32, pid: UInt32, SharedFD)
    /// None could be started.
    case failed(UInt32, Errno)
    /// One has ended: its exit status, or 128 + a signal's number.
    case ended(UInt32, status: UInt32)
    /// The process that starts them is gone, or talks nonsense: nothing will follow.
    case over
  }

  /// Hears what there is, in the loop's thread.
  package var onNews: ((News) -> Void)?

  private let socket: SharedFD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var lastNumber: UInt32 = 0
  /// That process's id.
  package let pid: CInt

  /// Starts the process: before this one is confined.
  package init(_ options: Options, on loop: EventLoop) throws(Errno) {
    let pair = try UnixSocket.Pair(.seqpacket)
    var strings = options.arguments.map { UnsafePointer(strdup($0)) }
    strings.append(nil)
    defer { for string in strings { free(UnsafeMutablePointer(mutating: string)) } }
    pid = try check(ph_spawn(strings, [pair.second.raw], [3], 1), "posix_spawn")
    try ChildEnd.watch(pid, on: loop)
    self.loop = loop
    socket = SharedFD(try pair.first.duplicate())
    try UnixSocket.setNonblocking(socket.raw, true)
    token = try loop.watch(socket.raw, for: .readable) { [unowned self] _ in receive() }
  }

  deinit {
    if let token { loop.unwatch(token) }
    // It ends by itself then.
    _ = shutdown(socket.raw, CInt(SHUT_RDWR))
  }

  /// Asks for a renderer; its number, by which news name it.
  package func start() -> UInt32 {
    lastNumber &+= 1
    if lastNumber == 0 { lastNumber = 1 }
    tell(.start(lastNumber))
    return lastNumber
  }

  /// Ends a renderer at once, whatever it is doing.
  package func kill(_ number: UInt32) { tell(.kill(number)) }

  private func tell(_ command: RenderCommand) {
    command.packet.withUnsafeBytes {
      do throws(Errno) { _ = try UnixSocket.send(socket.raw, $0, dontWait: true) } catch {
        // Its answers may still lie there; reading them says that it is over.
      }
    }
  }

  private func receive() {
    while token != nil {
      var fds: [CInt] = []
      let packet = withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { buffer -> News? in
        do throws(Errno) {
          let got = try UnixSocket.receive(
            socket.raw, into: buffer, fds: &fds, maxFDs: 1, dontWait: true)
          guard got.count > 0, !got.truncated else { return .over }
          return news(UnsafeRawBufferPointer(rebasing: buffer[0..<got.count]), fds.popLast())
        } catch { return error.code == EAGAIN || error.code == EINTR ? nil : .over }
      }
      guard let packet else { return }
      if case .over = packet, let token {
        loop.unwatch(token)
        self.token = nil
      }
      onNews?(packet)
    }
  }

  private func news(_ packet: UnsafeRawBufferPointer, _ fd: CInt?) -> News {
    let gift = fd.map { SharedFD(OwnedFD(adopting: $0)) }
    switch RenderNews(packet) {
    case .started(let number, let pid):
      guard let gift else { return .over }
      return .started(number, pid: pid, gift)
    case .failed(let number, let error):
      return .failed(number, Errno(CInt(bitPattern: error), "fork"))
    case .ended(let number, let status): return .ended(number, status: status)
    case nil: return .over
    }
  }
}
