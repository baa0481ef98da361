import Glibc
import GuestMemory
import Linux
import Testing

private func ram(_ pages: Int, seals: Seals = [.shrink]) throws -> SharedFD {
  SharedFD(try MemFD.create("ram", size: pages * 4096, seals: seals))
}

private func region(
  _ guest: UInt64, _ size: UInt64, user: UInt64 = 0x7000_0000_0000, at offset: UInt64 = 0
) -> MemoryRegion {
  MemoryRegion(guestAddress: guest, size: size, userAddress: user &+ guest, fileOffset: offset)
}

@Suite("The guest's memory table")
struct GuestMemoryTests {
  @Test("Addresses resolve to the file's bytes")
  func resolves() throws {
    let memory = GuestMemory()
    let fd = try ram(8)
    try memory.replace([
      (region(0, 0x3000), fd), (region(0x10000, 0x2000, at: 0x4000), fd),
    ])
    #expect(memory.entries.count == 2)
    #expect(memory.entries[0].file === memory.entries[1].file, "one file, one mapping")
    let low = try #require(memory.pointer(guest: 0x2fff, count: 1))
    low.storeBytes(of: 7, as: UInt8.self)
    let high = try #require(memory.pointer(guest: 0x10000, count: 0x2000))
    #expect(high - low == 0x4000 - 0x2fff)
    #expect(memory.pointer(user: 0x7000_0000_0000 + 0x2fff, count: 1) == low)
    #expect(memory.pointer(user: 0x7000_0001_0000, count: 0x2000) == high)
  }

  @Test("What is outside resolves to nothing")
  func outside() throws {
    let memory = GuestMemory()
    try memory.replace([(region(0x1000, 0x3000), try ram(8))])
    let bad: [(UInt64, UInt64)] = [
      (0, 1), (0xfff, 2), (0x4000, 1), (0x3fff, 2), (0x1000, 0x3001), (0x1000, .max),
      (.max, 1), (.max, .max), (0x2000, .max - 0x1000),
    ]
    for (address, count) in bad {
      #expect(memory.pointer(guest: address, count: count) == nil, "\(address)+\(count)")
      let user = address &+ 0x7000_0000_0000
      #expect(memory.pointer(user: user, count: count) == nil, "\(user)+\(count)")
      var ranges: [FileRange] = []
      #expect(!memory.fileRanges(guest: address, count: count, into: &ranges))
    }
    #expect(memory.pointer(guest: 0x1000, count: 0x3000) != nil)
    #expect(memory.pointer(guest: 0x3fff, count: 1) != nil)
  }

  @Test("Ranges cross regions, and neighbours in the file join")
  func ranges() throws {
    let memory = GuestMemory()
    let one = try ram(8)
    let two = try ram(8)
    try memory.replace([
      (region(0, 0x2000), one), (region(0x2000, 0x2000, at: 0x2000), one),
      (region(0x4000, 0x1000, at: 0x5000), two),
    ])
    var ranges: [FileRange] = []
    #expect(memory.fileRanges(guest: 0x1800, count: 0x3000, into: &ranges))
    #expect(ranges.map(\.offset) == [0x1800, 0x5000])
    #expect(ranges.map(\.count) == [0x2800, 0x800])
    #expect(ranges[0].file === memory.entries[0].file)
    #expect(ranges[1].file === memory.entries[2].file)
    #expect(memory.fileRanges(guest: 0x4800, count: 0x10, into: &ranges))
    #expect(ranges.count == 2, "continues the last piece")
    #expect(memory.pointer(guest: 0x1800, count: 0x1000) == nil, "crosses regions")
  }

  @Test("Malformed, overlapping and overlong regions are refused")
  func refuses() throws {
    let memory = GuestMemory()
    let fd = try ram(8)
    let bad = [
      region(0, 0), region(.max - 0xfff, 0x2000), region(0, 0x1000, user: .max - 0xff),
      region(0, 0x1000, at: .max - 0xff), region(0, 0x9000), region(0, 0x1000, at: 0x8000),
      region(0, .max), region(0, 0x8001), region(0, 0x8000, at: 1),
    ]
    for region in bad {
      #expect(throws: MemoryError.self, "\(region)") { try memory.replace([(region, fd)]) }
    }
    try memory.replace([(region(0x2000, 0x2000), fd)])
    for other in [region(0x1000, 0x1001), region(0x3fff, 1), region(0, 0x8000)] {
      #expect(throws: MemoryError.self, "\(other)") { try memory.add(other, fd) }
    }
    try memory.add(region(0x1000, 0x1000), fd)
    try memory.add(region(0x4000, 0x1000), fd)
    #expect(memory.entries.map(\.region.guestAddress) == [0x1000, 0x2000, 0x4000])
  }

  @Test("A refused table leaves the old one in place")
  func atomic() throws {
    let memory = GuestMemory()
    let fd = try ram(8)
    try memory.replace([(region(0, 0x2000), fd)])
    let epoch = memory.epoch
    #expect(throws: MemoryError.self) {
      try memory.replace([(region(0x8000, 0x1000), fd), (region(0, 0x9000), fd)])
    }
    #expect(memory.epoch == epoch)
    #expect(memory.entries.map(\.region.guestAddress) == [0])
  }

  @Test("Regions come and go")
  func removes() throws {
    let memory = GuestMemory()
    let fd = try ram(8)
    try memory.add(region(0, 0x1000), fd)
    try memory.add(region(0x1000, 0x1000, at: 0x1000), fd)
    let file = memory.entries[1].file
    var epoch = memory.epoch
    try memory.remove(region(0, 0x1000))
    #expect(memory.epoch != epoch)
    #expect(memory.pointer(guest: 0, count: 1) == nil)
    #expect(throws: MemoryError.self) { try memory.remove(region(0, 0x1000)) }
    #expect(throws: MemoryError.self) { try memory.remove(region(0x1000, 0x800)) }
    epoch = memory.epoch
    try memory.replace([(region(0x1000, 0x1000, at: 0x1000), fd)])
    #expect(memory.epoch != epoch)
    #expect(memory.entries[0].file === file, "a file that stays keeps its mapping")
    memory.removeAll()
    #expect(memory.entries.isEmpty)
  }

  @Test("What a new table leaves out is told, once")
  func uncovered() throws {
    let memory = GuestMemory()
    let fd = try ram(8)
    let low = region(0, 0x2000)
    let high = region(0x10000, 0x2000, at: 0x4000)
    try memory.replace([(low, fd), (high, fd)])
    let file = memory.entries[0].file
    func gone() -> [[UInt64]] { memory.takeUncovered().map { [$0.offset, $0.count] } }
    func covers(_ offset: UInt64, _ count: UInt64) -> Bool {
      memory.covers(FileRange(file: file, offset: offset, count: count))
    }
    #expect(gone() == [])
    #expect(covers(0, 0x2000) && covers(0x4000, 0x2000))
    #expect(!covers(0x1fff, 2) && !covers(0x3fff, 2) && !covers(0x5fff, 2))
    // Half of the first region stays, and nothing of the second.
    try memory.replace([(region(0, 0x1000), fd)])
    #expect(gone() == [[0x1000, 0x1000], [0x4000, 0x2000]])
    #expect(gone() == [], "it may be back by the next time")
    #expect(covers(0, 0x1000) && !covers(0x1000, 1) && !covers(0x4000, 1))
    // What can be seen elsewhere is not gone, and two regions may show a range together.
    try memory.add(region(0x20000, 0x800, at: 0x800), fd)
    try memory.add(region(0x30000, 0x800), fd)
    try memory.remove(region(0, 0x1000))
    #expect(gone() == [])
    #expect(covers(0, 0x1000))
    try memory.remove(region(0x30000, 0x800))
    #expect(gone() == [[0, 0x800]])
  }

  @Test("A file that lost pages, or has grown, is mapped anew")
  func anew() throws {
    let memory = GuestMemory()
    let fd = try ram(1, seals: [])
    func byte(_ address: UInt64) throws -> UInt8 {
      try #require(memory.pointer(guest: address, count: 1)).load(as: UInt8.self)
    }
    try memory.replace([(region(0, 0x1000), fd)])
    #expect(memory.lostRegion == nil)
    // The front-end takes the pages away, and the mapping is zeros of our own from then on.
    #expect(ftruncate(fd.raw, 0) == 0)
    #expect(try byte(0) == 0)
    #expect(memory.lostRegion == region(0, 0x1000))
    #expect(ftruncate(fd.raw, 0x1000) == 0)
    try memory.replace([(region(0, 0x1000), fd)])
    #expect(memory.lostRegion == nil)
    var written: UInt8 = 9
    #expect(pwrite(fd.raw, &written, 1, 0) == 1)
    #expect(try byte(0) == 9)
    #expect(ftruncate(fd.raw, 0x2000) == 0)
    try memory.add(region(0x1000, 0x1000, at: 0x1000), fd)
    #expect(pwrite(fd.raw, &written, 1, 0x1fff) == 1)
    #expect(try byte(0x1fff) == 9)
  }

  @Test("The number of regions is limited")
  func limit() throws {
    let memory = GuestMemory()
    let fd = try ram(1)
    for index in 0..<UInt64(GuestMemory.maxRegions) {
      try memory.add(region(index * 0x1000, 0x1000), fd)
    }
    #expect(throws: MemoryError.self) { try memory.add(region(1 << 40, 0x1000), fd) }
  }

  @Test("Files are told apart by what they are")
  func kinds() throws {
    #expect(try GuestFile(MemFD.create("m", size: 4096)).kind == .memfd)
    let sealed = try GuestFile(MemFD.create("m", size: 4096, seals: [.shrink, .grow, .seal]))
    #expect(sealed.kind == .memfd)
    #expect(sealed.seals == [.shrink, .grow, .seal])
    #expect(sealed.pageSize == 4096)
    #expect(sealed.pointer(at: 4095, count: 1) != nil)
    #expect(sealed.pointer(at: 4095, count: 2) == nil)
    #expect(sealed.pointer(at: .max, count: 2) == nil)
    #expect(throws: Errno.self) { try GuestFile(MemFD.create("empty", size: 0)) }
    #expect(throws: Errno.self) { try GuestFile(OwnedFD.open("/dev/null", 2)) }
  }

  @Test("Filling a hole gives the file a page of zeros")
  func populate() throws {
    let file = try GuestFile(MemFD.create("m", size: 8 * 4096))
    try file.populate(offset: 4096, count: 2 * 4096)
    #expect(try FileFacts(of: file.fd.raw).size == 8 * 4096)
    #expect(throws: Errno.self) { try file.populate(offset: 0, count: 9 * 4096) }
    let byte = file.pointer(at: 4096, count: 1)?.load(as: UInt8.self)
    #expect(byte == 0)
  }
}
