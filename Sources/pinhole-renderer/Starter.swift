import CLinux
import CVirgl
import Glibc
import Linux
import RenderWire

/// Starts renderers for the daemon, and keeps one ready.
///
/// It loads nothing of Mesa: threads do not survive a fork, and libraries' state not two lives.
final class Starter {
  private final class Child {
    let pid: CInt
    /// 0 for one that waits to be needed.
    var number: UInt32 = 0
    let pidfd: SharedFD
    var token: EventLoop.Token?
    /// The daemon's end of its socket, until it is handed over.
    var socket: SharedFD?

    init(pid: CInt, pidfd: consuming OwnedFD, socket: consuming OwnedFD) {
      self.pid = pid
      self.pidfd = SharedFD(pidfd)
      self.socket = SharedFD(socket)
    }
  }

  private let control: SharedFD
  private let limits: RendererLimits
  private let keepsSpare: Bool
  private let loop: EventLoop
  private var children: [Child] = []
  private var failure: Errno?

  init(control: consuming OwnedFD, limits: RendererLimits, keepsSpare: Bool) throws(Errno) {
    self.control = SharedFD(control)
    self.limits = limits
    self.keepsSpare = keepsSpare
    loop = try EventLoop()
  }

  /// Serves until the daemon is gone.
  func run() throws(Errno) {
    try UnixSocket.setNonblocking(control.raw, true)
    try loop.watch(control.raw, for: .readable) { [unowned self] _ in
      while let command = receive() {
        switch command {
        case .start(let number): start(number)
        case .kill(let number):
          for child in children where child.number == number { kill(child.pid, SIGKILL) }
        }
      }
    }
    try loop.run()
    for child in children { kill(child.pid, SIGKILL) }
  }

  private func receive() -> RenderCommand? {
    var fds: [CInt] = []
    return withUnsafeTemporaryAllocation(byteCount: 64, alignment: 8) { buffer in
      do throws(Errno) {
        let got = try UnixSocket.receive(
          control.raw, into: buffer, fds: &fds, maxFDs: 0, dontWait: true)
        guard got.count > 0, !got.truncated,
          let command = RenderCommand(UnsafeRawBufferPointer(rebasing: buffer[0..<got.count]))
        else {
          loop.stop()
          return nil
        }
        return command
      } catch {
        if error.code != EAGAIN { loop.stop() }
        return nil
      }
    }
  }

  private func start(_ number: UInt32) {
    do throws(Errno) {
      let child: Child
      if let spare = children.first(where: { $0.number == 0 && isAlive($0) }) {
        child = spare
      } else {
        child = try fork()
      }
      child.number = number
      tell(.started(number, pid: UInt32(bitPattern: child.pid)), child.socket)
      child.socket = nil
    } catch { tell(.failed(number, error: UInt32(bitPattern: error.code)), nil) }
    if keepsSpare { _ = try? fork() }
  }

  private func isAlive(_ child: Child) -> Bool {
    ph_poll_now(child.pidfd.raw, Int16(POLLIN)) == 0
  }

  private func fork() throws(Errno) -> Child {
    let pair = try UnixSocket.Pair(.seqpacket)
    let pid = try check(ph_fork(), "fork")
    if pid == 0 { Renderer.live(adoptingOnly: pair.second.raw, limits) }
    let pidfd = try check(ph_pidfd(pid), "pidfd_open")
    let child = Child(
      pid: pid, pidfd: OwnedFD(adopting: pidfd), socket: try pair.first.duplicate())
    child.token = try loop.watch(pidfd, for: .readable) { [unowned self, unowned child] _ in
      ended(child)
    }
    children.append(child)
    return child
  }

  private func ended(_ child: Child) {
    if let token = child.token { loop.unwatch(token) }
    children.removeAll { $0 === child }
    var raw: CInt = 0
    guard waitpid(child.pid, &raw, 0) == child.pid, child.number != 0 else { return }
    let signal = raw & 0x7f
    let status = signal == 0 ? raw >> 8 & 0xff : 128 + signal
    tell(.ended(child.number, status: UInt32(bitPattern: status)), nil)
  }

  private func tell(_ news: RenderNews, _ gift: SharedFD?) {
    news.packet.withUnsafeBytes {
      _ = try? UnixSocket.send(control.raw, $0, fds: gift.map { [$0.raw] } ?? [])
    }
  }
}
