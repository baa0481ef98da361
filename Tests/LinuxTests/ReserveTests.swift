import Glibc
import Linux
import Testing

/// Numbers for the descriptors that messages bring, when whoever connects has taken all others.
@Suite struct ReserveTests {
  @Test func messagesBringTheirDescriptorsThoughAllNumbersAreTaken() async throws {
    await #expect(processExitsWith: .exitCode(7)) {
      var limit = rlimit(rlim_cur: 1024, rlim_max: 1024)
      guard setrlimit(__rlimit_resource_t(7), &limit) == 0 else { exit(1) }  // RLIMIT_NOFILE
      let ordinary = try Descriptors.reserveForMessages()
      guard ordinary == 1024 - 320, !Descriptors.isReserve(CInt(ordinary - 1)) else { exit(2) }
      var ends: (SharedFD?, SharedFD?) = (nil, nil)
      try UnixSocket.Pair(.seqpacket).split { ends = (SharedFD($0), SharedFD($1)) }
      guard let sender = ends.0, let receiver = ends.1 else { exit(3) }
      // As many as one message can carry.
      let fds = [CInt](repeating: 2, count: 253)
      let sent = try [UInt8(1)].withUnsafeBytes {
        try UnixSocket.send(sender.raw, $0, fds: fds, dontWait: true)
      }
      guard sent == 1 else { exit(4) }
      var last: CInt = -1
      while case let next = fcntl(2, F_DUPFD_CLOEXEC, 3), next >= 0 {
        last = OwnedFD(adopting: next).release()
      }
      guard last == CInt(ordinary) - 1 else { exit(5) }
      var got: [CInt] = []
      var bytes: [UInt8] = [0]
      let received = try bytes.withUnsafeMutableBytes {
        try UnixSocket.receive(receiver.raw, into: $0, fds: &got, maxFDs: 253, dontWait: true)
      }
      guard got.count == 253, !received.truncated else { exit(6) }
      guard got.allSatisfy({ Descriptors.isReserve($0) }) else { exit(8) }
      // Nobody else gets those numbers.
      guard getrlimit(__rlimit_resource_t(7), &limit) == 0, limit.rlim_cur == UInt(ordinary),
        fcntl(2, F_DUPFD_CLOEXEC, 3) < 0
      else { exit(9) }
      withExtendedLifetime(ends) {}
      _exit(7)
    }
  }
}
