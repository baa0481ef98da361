import CLinux
import Glibc
import Linux

/// Takes a child process off the kernel's hands once it has ended, in the loop: nobody waits, and
/// no zombie stays for as long as the loop turns.
final class ChildEnd {
  private let pid: CInt
  private let pidfd: OwnedFD
  /// It holds this object in turn.
  private unowned let loop: EventLoop
  private var token: EventLoop.Token?

  private init(_ pid: CInt, on loop: EventLoop) throws(Errno) {
    self.pid = pid
    self.loop = loop
    pidfd = OwnedFD(adopting: try check(ph_pidfd(pid), "pidfd_open"))
  }

  /// Watches a child of this process until it has ended, whoever forgets it.
  static func watch(_ pid: CInt, on loop: EventLoop) throws(Errno) {
    let end = try ChildEnd(pid, on: loop)
    end.token = try loop.watch(end.pidfd.raw, for: .readable) { _ in end.reap() }
  }

  /// The loop is gone before the child, which ends by itself once its socket has: it is waited for,
  /// two seconds at most. A process that ends takes its dead children with it; in one that goes on,
  /// a test's, whoever waits for any child (waitid(2) with `P_ALL`) would find this one for ever.
  deinit {
    guard token != nil else { return }
    var status: CInt = 0
    for _ in 0..<1000 {
      guard ph_wait(pid, 0, &status) == 0 else { return }
      usleep(2000)
    }
  }

  private func reap() {
    var status: CInt = 0
    guard ph_wait(pid, 0, &status) != 0, let token else { return }
    self.token = nil
    loop.unwatch(token)
  }
}
