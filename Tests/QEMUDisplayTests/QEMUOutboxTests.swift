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

  @Test(
    "Rows arrive in their order, few or too many for one call, joined or apart",
    arguments: [(3, 12, 64), (3000, 12, 64), (1024, 12, 64), (900, 1000, 1024), (500, 64, 64)])
  func rows(_ rows: Int, _ count: Int, _ stride: Int) throws {
    let pair = try UnixSocket.Pair(.stream)
    let reader = SharedFD(try pair.second.duplicate())
    let outbox = QEMUOutbox(try pair.first.duplicate())
    // Three times, of which the socket does not take all: what waits has its turn first.
    var expected: [UInt8] = []
    for round in 0..<3 {
      var bytes = (0..<rows * stride).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ round) }
      for row in 0..<rows { expected += bytes[row * stride..<row * stride + count] }
      bytes.withUnsafeMutableBytes { bytes in
        guard let base = bytes.baseAddress else { return }
        outbox.add(base, rows: rows, count, stride: stride)
        outbox.flush()
        // Whoever owns them may write there now.
        memset(base, 0, bytes.count)
      }
    }
    var got: [UInt8] = []
    var room = [UInt8](repeating: 0, count: 1 << 16)
    var fds: [CInt] = []
    while got.count < expected.count {
      outbox.drain()
      try #require(outbox.failure == nil)
      let piece = try room.withUnsafeMutableBytes {
        try UnixSocket.receive(reader.raw, into: $0, fds: &fds, dontWait: true).count
      }
      try #require(piece > 0)
      got += room.prefix(piece)
    }
    let isRight = got == expected
    #expect(isRight, "all rows in their order")
    #expect(outbox.isIdle)
  }
}
