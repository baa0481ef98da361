import Glibc
import Linux
import Testing

@testable import QEMUDisplay

@Suite("QEMU display: memory that goes while it is sent")
struct QEMUOutboxTests {
  @Test("It is sent as zeros, and the next message is where it should be")
  func memoryThatIsGone() throws {
    let pair = try UnixSocket.Pair(.stream)
    let reader = SharedFD(try pair.second.duplicate())
    let outbox = QEMUOutbox(try pair.first.duplicate())
    var head = [UInt8](repeating: 1, count: 100)
    var tail = [UInt8](repeating: 2, count: 50)
    // Guest memory whose owner truncates it, which sendmsg(2) takes for a wrong address.
    let file = try MemFD.create("guest", size: 8192)
    let guest = try Mapping(fd: file.raw, offset: 0, count: 8192, writable: true, guarded: true)
    let hole = guest.base
    memset(hole, 7, 8192)
    #expect(ftruncate(file.raw, 0) == 0)
    head.withUnsafeMutableBytes { first in
      tail.withUnsafeMutableBytes { last in
        guard let start = first.baseAddress, let end = last.baseAddress else { return }
        outbox.add(start, first.count)
        outbox.add(hole, 8192)
        outbox.flush()
        outbox.drain()
        // The next message is where the reader expects it.
        outbox.add(end, last.count)
        outbox.flush()
        outbox.drain()
      }
    }
    #expect(outbox.failure == nil)
    var got = [UInt8](repeating: 9, count: 10_000)
    var fds: [CInt] = []
    var count = 0
    while count < 100 + 8192 + 50 {
      let from = count
      let piece = try got.withUnsafeMutableBytes {
        try UnixSocket.receive(
          reader.raw, into: UnsafeMutableRawBufferPointer(rebasing: $0[from...]), fds: &fds,
          dontWait: true
        ).count
      }
      try #require(piece > 0)
      count += piece
    }
    let expected =
      [UInt8](repeating: 1, count: 100) + [UInt8](repeating: 0, count: 8192)
      + [UInt8](repeating: 2, count: 50)
    let isRight = Array(got.prefix(count)) == expected
    #expect(isRight, "header, zeros, and the next message")
  }
}
