import Glibc
import Linux
import Testing

/// Memory of files, and that none of it stays when its owner goes.
@Suite struct RingFileTests {
  private func isMapped(_ name: String) throws -> Bool {
    try #require(WholeFile.text("/proc/self/maps")).contains("memfd:\(name)")
  }

  @Test func positionsGoRound() throws {
    let ring = try RingFile("ring-round", count: 5000)
    #expect(ring.count == 2 * pageSize)
    let end = UInt64(ring.count)
    memcpy(ring.address(end - 3), [1, 2, 3, 4, 5, 6] as [UInt8], 6)
    let start = ring.address(0).assumingMemoryBound(to: UInt8.self)
    #expect([start[0], start[1], start[2]] == [4, 5, 6])
    for turns in [1, 2, 1_000_000] as [UInt64] {
      #expect(ring.address(turns * end + 1) == ring.address(1))
    }
    #expect(throws: Errno(ENOMEM, "mmap")) { try RingFile("ring-none", count: 0) }
  }

  @Test func whatPassesTheEndIsSentInTwoPieces() throws {
    let ring = try RingFile("ring-sent", count: pageSize)
    let (a, b) = try pair(.stream)
    let message = (0..<10).map { UInt8($0) }
    let at = UInt64(3 * pageSize - 4)
    memcpy(ring.address(at), message, message.count)
    var sent = 0
    while sent < message.count {
      let more = try ring.send(a.raw, from: at + UInt64(sent), count: message.count - sent)
      #expect(more > 0)
      if more == 0 { break }
      sent += more
    }
    a.close()
    var got: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 64)
    while case let count = read(b.raw, &chunk, chunk.count), count > 0 { got += chunk[..<count] }
    #expect(got == message)
  }

  @Test func nothingOfARingStaysMapped() throws {
    do {
      let ring = try RingFile("ring-gone", count: pageSize)
      ring.address(0).storeBytes(of: 1, as: UInt8.self)
      #expect(try isMapped("ring-gone"))
      withExtendedLifetime(ring) {}
    }
    #expect(try !isMapped("ring-gone"))
  }

  @Test(arguments: [false, true])
  func nothingOfAMappingStays(_ isGuarded: Bool) throws {
    let name = "mapping-gone-\(isGuarded)"
    do {
      let file = try MemFD.create(name, size: pageSize)
      let mapping = try Mapping(
        fd: file.raw, offset: 0, count: pageSize, writable: true, guarded: isGuarded)
      #expect(try isMapped(name))
      mapping.base.storeBytes(of: 1, as: UInt8.self)
    }
    #expect(try !isMapped(name))
  }
}
