import FakeGuest
import Linux
import Testing

@Suite struct GuestRAMTests {
  @Test func pagesAreDistinctAndInsideTheGuest() throws {
    let size: UInt64 = 8 << 20
    let ram = try GuestRAM(size: size, regions: GuestRAM.pcRegions(size: size))
    let free = ram.freePages
    let b = try ram.allocate(pages: 200)
    let c = try ram.allocate(pages: 512, .contiguous(alignment: 2 << 20))
    let a = try ram.allocate(pages: 300, .scattered(seed: 1))
    #expect(c.start % (2 << 20) == 0)
    #expect(b.entries().count == 1)
    #expect(a.entries().count > 200)
    let all = a.addresses + b.addresses + c.addresses
    #expect(Set(all).count == all.count)
    #expect(all.allSatisfy { ram.fileOffset(ofGuest: $0) != nil && $0 % 4096 == 0 && $0 != 0 })
    #expect(all.allSatisfy { !(0xa0000..<0x100000).contains($0) })
    for pages in [a, b, c] { ram.free(pages) }
    #expect(ram.freePages == free)
  }

  @Test func theSameSeedGivesTheSamePages() throws {
    let first = try GuestRAM(size: 4 << 20).allocate(pages: 50, .scattered(seed: 9))
    let again = try GuestRAM(size: 4 << 20).allocate(pages: 50, .scattered(seed: 9))
    let other = try GuestRAM(size: 4 << 20).allocate(pages: 50, .scattered(seed: 10))
    #expect(first.addresses == again.addresses)
    #expect(first.addresses != other.addresses)
  }

  @Test func whatIsWrittenIsReadBackAcrossPages() throws {
    let ram = try GuestRAM(size: 4 << 20)
    let pages = try ram.allocate(pages: 3, .scattered(seed: 2))
    let bytes = (0..<6000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    ram.write(bytes, to: pages, at: 3000)
    #expect(ram.read(pages, at: 3000, count: 6000) == bytes)
  }

  @Test func tooMuchIsRefused() throws {
    let ram = try GuestRAM(size: 1 << 20)
    #expect(throws: GuestError.self) { try ram.allocate(pages: 257) }
    #expect(throws: GuestError.self) { try ram.allocate(pages: 256, .scattered(seed: 0)) }
  }

  @Test func itsFileIsSealedAsQEMUSealsIt() throws {
    // The kernel may add a seal of its own against execution.
    let ram = [try GuestRAM(size: 1 << 20), try GuestRAM(size: 1 << 20, seals: [])]
    // A raw number does not keep its file open.
    try withExtendedLifetime(ram) {
      let sealed = try #require(MemFD.seals(of: ram[0].fd.raw))
      #expect(sealed.isSuperset(of: [.grow, .shrink, .seal]))
      #expect(sealed.isDisjoint(with: [.write, .futureWrite]))
      let open = try #require(MemFD.seals(of: ram[1].fd.raw))
      #expect(open.isDisjoint(with: [.shrink, .write]))
    }
  }
}
