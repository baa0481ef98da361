import FakeGuest
import Glibc
import Linux
import PinholeFrames
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

  /// What a producer sends is closed in the consumer's own thread: a socket that lingers must not
  /// keep it.
  @Test func aConsumerDoesNotWaitForWhatAProducerSends() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      let waiting = try WaitingSocket(lingering: 600)
      var ours: OwnedFD?
      var theirs: OwnedFD?
      try UnixSocket.Pair(.seqpacket).split {
        ours = consume $0
        theirs = consume $1
      }
      guard let producer = ours.take(), let socket = theirs.take() else { exit(1) }
      let consumer = try FrameConsumer(socket: socket)
      let sent = try [UInt8](repeating: 0, count: 16).withUnsafeBytes {
        try UnixSocket.send(producer.raw, $0, fds: [waiting.raw])
      }
      guard sent == 16 else { exit(2) }
      waiting.giveAway()
      // Ends the process if it waits.
      alarm(60)
      var isRefused = false
      do { _ = try consumer.next(timeout: 0) } catch { isRefused = true }
      exit(isRefused ? 7 : 3)
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
