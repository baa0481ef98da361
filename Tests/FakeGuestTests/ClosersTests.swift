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
      // It is interrupted a second later, and known all the same.
      var most = 0
      for _ in 0..<400 where !Closers.isStuck(stranger) || most == 0 {
        most = max(most, Closers.state.stuck)
        usleep(10_000)
      }
      guard Closers.isStuck(stranger), !Closers.isStuck(friend) else { exit(3) }
      guard most == 1 else { exit(4) }
      withExtendedLifetime(waiting) {}
      // Not exit(3): what the stuck thread holds would be taken for a leak.
      _exit(7)
    }
  }

  /// Nobody was accepted yet, and what he sent has to be closed with the listener.
  @Test func aListenerThatEndsIsNotWaitedFor() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      // What hangs ends with a signal instead.
      alarm(60)
      try Closers.start(threads: 2)
      let directory = try TemporaryDirectory()
      let path = directory.file("listen")
      let listener = try Listener(.path(path, .seqpacket), on: EventLoop())
      let end = try UnixSocket.connect(path, kind: .seqpacket, patience: 0)
      let waiting = try WaitingSocket(lingering: 600)
      let sent = try [UInt8(1)].withUnsafeBytes {
        try UnixSocket.send(end.raw, $0, fds: [waiting.raw])
      }
      guard sent == 1 else { exit(1) }
      waiting.giveAway()
      listener.stop()
      guard access(path, F_OK) != 0 else { exit(2) }
      withExtendedLifetime(waiting) {}
      _exit(7)
    }
  }

  /// A thread that waits for a socket's peer is interrupted, and goes on with what waits for it.
  @Test func aLingerIsInterrupted() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      alarm(60)
      try Closers.start(threads: 1)
      let (stranger, friend) = (Sender.connection(), Sender.connection())
      let waiting = try WaitingSocket(lingering: 600)
      Closers.close(try ClosersTests.carrier(waiting), from: stranger)
      var pipe: [CInt] = [-1, -1]
      guard Glibc.pipe(&pipe) == 0 else { exit(1) }
      Closers.close(pipe[1], from: friend)
      var byte: UInt8 = 0
      guard read(pipe[0], &byte, 1) == 0 else { exit(2) }
      // Who had it wait is known afterwards too.
      guard Closers.isStuck(stranger), !Closers.isStuck(friend) else { exit(3) }
      withExtendedLifetime(waiting) {}
      _exit(7)
    }
  }

  /// While much waits, nobody is taken who may bring more, and whoever has brought it is stuck.
  @Test func aJamKeepsNewcomersOut() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      alarm(100)
      try Closers.start(threads: 1)
      let waiting = try (0..<3).map { _ in try WaitingSocket(lingering: 600) }
      for one in waiting {
        Closers.close(try ClosersTests.carrier(one), from: .connection())
      }
      let (flooder, friend) = (Sender.connection(), Sender.connection())
      for _ in 0..<300 { Closers.close(fcntl(2, F_DUPFD_CLOEXEC, 3), from: flooder) }
      Closers.close(fcntl(2, F_DUPFD_CLOEXEC, 3), from: friend)
      guard Closers.isCrowded, Closers.isStuck(flooder), !Closers.isStuck(friend) else { exit(1) }
      let loop = try EventLoop()
      let directory = try TemporaryDirectory()
      let listener = try Listener(.path(directory.file("listen"), .stream), isCrowd: true, on: loop)
      let came = Locked(0)
      listener.connected = { _ in came.withLock { $0 += 1 } }
      let end = try UnixSocket.connect(directory.file("listen"), kind: .stream, patience: 0)
      for _ in 0..<4 { try loop.turn(timeout: 0) }
      guard came.withLock({ $0 }) == 0 else { exit(2) }
      while came.withLock({ $0 }) == 0 { try loop.turn() }
      guard !Closers.isCrowded, !Closers.isStuck(flooder) else { exit(3) }
      listener.stop()
      withExtendedLifetime((waiting, end.raw)) {}
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
      _exit(isRefused ? 7 : 3)
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
