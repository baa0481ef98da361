import FakeGuest
import Glibc
import Linux
import Testing

/// Descriptors from outside whose last close waits for somebody.
@Suite struct ClosersTests {
  /// A socket in whose queue lies the last descriptor of one that lingers.
  private static func carrier(_ waiting: WaitingSocket) throws -> CInt {
    var end: CInt = -1
    try UnixSocket.Pair(.stream).split { ours, theirs in
      let sent = [UInt8(1)].withUnsafeBytes {
        (try? UnixSocket.send(theirs.raw, $0, fds: [waiting.raw])) ?? 0
      }
      if sent == 1 { end = ours.release() }
    }
    waiting.giveAway()
    return end
  }

  @Test func aStuckCloseIsKnownAndHoldsUpNobodyElse() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      try Closers.start(threads: 2)
      let (stranger, friend) = (Sender.connection(), Sender.connection())
      let waiting = try WaitingSocket(lingering: 600)
      Closers.close(try ClosersTests.carrier(waiting), from: stranger)
      var pipe: [CInt] = [-1, -1]
      guard Glibc.pipe(&pipe) == 0 else { exit(1) }
      Closers.close(pipe[1], from: friend)
      var byte: UInt8 = 0
      // Closed by the other thread.
      guard read(pipe[0], &byte, 1) == 0 else { exit(2) }
      for _ in 0..<400 where !Closers.isStuck(stranger) { usleep(10_000) }
      guard Closers.isStuck(stranger), !Closers.isStuck(friend) else { exit(3) }
      guard Closers.state.stuck == 1 else { exit(4) }
      withExtendedLifetime(waiting) {}
      // Not exit(3): what the stuck thread holds would be taken for a leak.
      _exit(7)
    }
  }

  @Test func aStreamDoesNotLinger() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      try Closers.start(threads: 1)
      let stranger = Sender.connection()
      let waiting = try WaitingSocket(lingering: 600)
      let last = fcntl(waiting.raw, F_DUPFD_CLOEXEC, 3)
      waiting.giveAway()
      Closers.close(last, from: stranger)
      var pipe: [CInt] = [-1, -1]
      guard Glibc.pipe(&pipe) == 0 else { exit(1) }
      Closers.close(pipe[1], from: stranger)
      var byte: UInt8 = 0
      guard read(pipe[0], &byte, 1) == 0 else { exit(2) }
      exit(7)
    }
  }
}
