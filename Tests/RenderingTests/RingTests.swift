import Glibc
import Linux
import RenderWire
import Rendering
import Testing

/// The memory through which large requests go.
@Suite struct RingTests {
  /// Whoever takes a renderer over can neither write to the ring nor take pages from under it.
  @Test func theRingIsTheDaemonsAlone() throws {
    let liar = try Liar()
    let ring = try #require(try liar.gift())
    var byte: UInt8 = 1
    let written = pwrite(ring.raw, &byte, 1, 0)
    #expect(written == -1)
    #expect(mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring.raw, 0) == MAP_FAILED)
    let cut = ftruncate(ring.raw, 0)
    #expect(cut == -1)
    #expect(try FileFacts(of: ring.raw).size == UInt64(RenderWire.ringSize))
  }

  /// What could not be sent has its place again when it is tried again: here it would fill the ring.
  @Test func aPlaceThatWasNotUsedIsTakenAgain() throws {
    var left = 0
    let liar = try Liar { (socket, packet, fds) throws(Errno) in
      guard left == 0 else {
        left -= 1
        throw Errno(ENOBUFS, "sendmsg")
      }
      try RenderLink.transmit(socket, packet, fds)
    }
    try liar.greet()
    #expect(try liar.next()?.header.operation == RenderOpcode.setUp.rawValue)
    left = 6
    let bytes = [UInt8](repeating: 7, count: 12 << 20)
    liar.link.submit(
      context: 1, count: bytes.count, filling: { $0.copyBytes(from: bytes) }, { _ in })
    var heard: RenderHeader?
    let bound = Clock.now + 20_000_000_000
    while heard == nil, Clock.now < bound {
      heard = try? liar.next()?.header
      if heard == nil { try liar.loop.turn(timeout: 20) }
    }
    #expect(left == 0)
    #expect(heard?.operation == RenderOpcode.submit.rawValue)
    #expect(heard?.flags == RenderHeader.isInRing)
    #expect(liar.link.bytesWaiting == 0)
  }
}
