import FakeGuest
import Glibc
import Linux
import Testing

@Suite struct PuncherTests {
  private let ram: GuestRAM
  private let pages: GuestPages
  private let offsets: [UInt64]
  private let puncher: Puncher

  init() throws {
    ram = try GuestRAM(size: 4 << 20)
    pages = try ram.allocate(pages: 40, .scattered(seed: 4))
    offsets = ram.fileOffsets(of: pages)
    ram.fill(pages, with: 0xaa)
    puncher = try Puncher(ram.fd.raw)
  }

  private func page(_ index: Int) -> [UInt8] {
    ram.read(pages, at: index * 4096, count: 4096)
  }

  private func isHole(_ index: Int) -> Bool {
    lseek(ram.fd.raw, off_t(offsets[index]), 3) != off_t(offsets[index])  // SEEK_DATA
  }

  @Test func aDiscardedPageReadsAsZeroAndItsNeighboursStay() throws {
    try puncher.discard(offset: offsets[3], count: 4096)
    #expect(isHole(3))
    #expect(!isHole(2))
    #expect(page(3).allSatisfy { $0 == 0 })
    #expect(page(2).allSatisfy { $0 == 0xaa })
    try puncher.remove(offset: offsets[4], count: 4096)
    #expect(isHole(4))
  }

  @Test func aDiscardedPageIsRefilledAsAsked() throws {
    try puncher.discard(offset: offsets[0], count: 4096, .byte(0x62))
    #expect(page(0).allSatisfy { $0 == 0x62 })
    try puncher.discard(offset: offsets[1], count: 4096, .stamp(77))
    #expect(page(1) == PageStamp.bytes(tag: 77, number: offsets[1] / 4096))
    #expect(page(1) != PageStamp.bytes(tag: 78, number: offsets[1] / 4096))
    #expect(page(1) != PageStamp.bytes(tag: 77, number: offsets[1] / 4096 + 1))
    try puncher.remove(offset: offsets[2], count: 4096, .same)
    #expect(page(2).allSatisfy { $0 == 0xaa })
    try puncher.rewrite(offset: offsets[5], count: 4096, .stamp(1))
    #expect(page(5) == PageStamp.bytes(tag: 1, number: offsets[5] / 4096))
  }

  @Test func aStormHitsThePagesAimedAtAndNoOther() throws {
    try puncher.aim(at: Array(offsets.prefix(20)))
    let seed = UInt64.random(in: 0 ... .max)
    print("storm seed \(seed)")
    #expect(try puncher.storm(seed: seed, count: 400, .stamp(9)) == 400)
    let hit = (0..<40).filter { page($0) == PageStamp.bytes(tag: 9, number: offsets[$0] / 4096) }
    #expect(hit.count > 15)
    #expect(hit.allSatisfy { $0 < 20 })
    #expect((20..<40).allSatisfy { page($0).allSatisfy { $0 == 0xaa } })
  }

  @Test func aStormGoesOnUntilItIsStopped() throws {
    try puncher.aim(at: offsets)
    try puncher.startStorm(seed: 1, .hole)
    while !(0..<40).contains(where: isHole) { usleep(100) }
    #expect(try puncher.stopStorm() > 0)
    ram.fill(pages, with: 1)
    usleep(2000)
    #expect(!(0..<40).contains(where: isHole))
    try puncher.discard(offset: offsets[0], count: 4096)
    #expect(isHole(0))
  }

  @Test func nonsenseIsRefused() throws {
    #expect(throws: GuestError.self) { try puncher.discard(offset: 4 << 20, count: 4096) }
    #expect(throws: GuestError.self) { try puncher.discard(offset: 0, count: 0) }
    #expect(throws: GuestError.self) { try puncher.storm(seed: 1, count: 1, .hole) }
    #expect(throws: GuestError.self) { try Puncher(ram.fd.raw, program: "/does/not/exist") }
    try puncher.discard(offset: 0, count: 4096)
  }
}
