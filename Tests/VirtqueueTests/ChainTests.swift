import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("Chains of a split ring")
struct ChainTests {
  @Test("A request is read, answered and handed back")
  func roundTrip() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    #expect(try queue.pop() == nil)
    driver.fill(Driver.buffers, [1, 2, 3, 4, 5])
    driver.fill(Driver.buffers + 0x100, [6, 7])
    driver.describe(2, Driver.buffers, 5, Flag.next, next: 5)
    driver.describe(5, Driver.buffers + 0x100, 2, Flag.next, next: 0)
    driver.describe(0, Driver.buffers + 0x200, 3, Flag.next | Flag.write, next: 1)
    driver.describe(1, Driver.buffers + 0x300, 4, Flag.write)
    driver.offer(2)

    let chain = try #require(try queue.pop())
    #expect(chain.head == 2)
    #expect((chain.readableCount, chain.writableCount) == (7, 7))
    #expect(chain.request == [1, 2, 3, 4, 5, 6, 7])
    var middle = [UInt8](repeating: 0, count: 3)
    #expect(middle.withUnsafeMutableBytes { chain.read(into: $0, offset: 3) } == 3)
    #expect(middle == [4, 5, 6])
    #expect(middle.withUnsafeMutableBytes { chain.read(into: $0, offset: 6) } == 1)
    #expect(middle.withUnsafeMutableBytes { chain.read(into: $0, offset: 7) } == 0)
    #expect(middle.withUnsafeMutableBytes { chain.read(into: $0, offset: -1) } == 0)
    #expect(chain.answer([9, 8, 7, 6, 5]) == 5)
    #expect(chain.answer([4, 3, 2, 1], offset: 5) == 2)
    #expect(driver.bytes(Driver.buffers + 0x200, 4) == [9, 8, 7, 0])
    #expect(driver.bytes(Driver.buffers + 0x300, 5) == [6, 5, 4, 3, 0])
    #expect(driver.usedIndex == 0)

    queue.push(chain, written: 7)
    #expect(driver.usedIndex == 1)
    #expect(driver.used(0) == (2, 7))
    #expect(try queue.pop() == nil)
    #expect(queue.nextAvailable == 1)
  }

  @Test("Requests are answered in any order, each once")
  func outOfOrder() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    for i in 0..<4 { driver.describe(UInt16(i), Driver.buffers, UInt32(i + 1), Flag.write) }
    driver.offer(0, 1, 2, 3)
    var chains: [DescriptorChain] = []
    while let chain = try queue.pop() { chains.append(chain) }
    #expect(chains.map(\.head) == [0, 1, 2, 3])
    #expect(queue.inFlight == 4)
    for i in [2, 0, 3] { queue.push(chains[i], written: 1) }
    #expect((0..<3).map { driver.used(UInt16($0)).head } == [2, 0, 3])
    queue.push(chains[2], written: 1)
    #expect(driver.usedIndex == 3, "a chain is answered only once")
    let other = try Driver().queue()
    other.push(chains[1], written: 1)
    #expect(queue.inFlight == 1, "another ring does not take the chain")
    queue.push(chains[1], written: 99)
    #expect(driver.used(3) == (1, 2), "no more is claimed than there was room for")
    #expect(queue.inFlight == 0)
  }

  @Test("Chain objects are used again")
  func pool() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.buffers, 4)
    var seen: Set<ObjectIdentifier> = []
    for _ in 0..<100 {
      driver.offer(0)
      let chain = try #require(try queue.pop())
      #expect(chain.readable.count == 1)
      seen.insert(ObjectIdentifier(chain))
      queue.push(chain, written: 0)
      #expect(chain.readable.isEmpty)
    }
    #expect(seen.count == 1)
  }

  @Test("A buffer may go on in the next region")
  func acrossRegions() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    let start = Driver.high - 3
    driver.fill(start, [1, 2, 3])
    driver.fill(Driver.high, [4, 5])
    driver.describe(0, start, 5, Flag.next, next: 1)
    driver.describe(1, start, 5, Flag.write)
    driver.offer(0)
    let chain = try #require(try queue.pop())
    #expect(chain.readable.map(\.count) == [3, 2])
    #expect(chain.readable.map(\.offset) == [0x3fffd, 0x80000])
    #expect(chain.request == [1, 2, 3, 4, 5])
    #expect(chain.answer([9, 9, 9, 9, 8]) == 5)
    #expect(driver.bytes(Driver.high, 3) == [9, 8, 0])
  }

  @Test("A request may lie in two memfds, and so may one of its buffers")
  func acrossFiles() throws {
    let driver = try Driver()
    // It begins at the offset at which the first file's region ends: that makes them no neighbours.
    let other = SharedFD(try MemFD.create("other", size: 0xd0000))
    try driver.memory.add(
      MemoryRegion(
        guestAddress: Driver.end, size: 0x10000, userAddress: Driver.userBase + Driver.end,
        fileOffset: 0xc0000), other)
    let queue = try driver.queue()
    driver.fill(Driver.end - 3, [1, 2, 3])
    driver.fill(Driver.end, [4, 5])
    driver.fill(Driver.buffers, [6])
    driver.fill(Driver.end + 0x100, [7, 8])
    driver.describe(0, Driver.end - 3, 5, Flag.next, next: 1)
    driver.describe(1, Driver.buffers, 1, Flag.next, next: 2)
    driver.describe(2, Driver.end + 0x100, 2, Flag.next, next: 3)
    driver.describe(3, Driver.end - 2, 4, Flag.next | Flag.write, next: 4)
    driver.describe(4, Driver.buffers + 0x100, 2, Flag.write)
    driver.offer(0)
    let chain = try #require(try queue.pop())
    #expect(chain.readable.map(\.count) == [3, 2, 1, 2])
    #expect(chain.readable.map(\.offset) == [0xbfffd, 0xc0000, 0x10000, 0xc0100])
    #expect(chain.readable[0].file !== chain.readable[1].file)
    #expect(chain.request == [1, 2, 3, 4, 5, 6, 7, 8])
    #expect(chain.answer([9, 8, 7, 6, 5, 4]) == 6)
    #expect(driver.bytes(Driver.end - 3, 6) == [1, 9, 8, 7, 6, 0])
    #expect(driver.bytes(Driver.buffers + 0x100, 3) == [5, 4, 0])
    queue.push(chain, written: 6)
    #expect(driver.used(0) == (0, 6))
  }

  @Test(
    "Indirect tables, longer than the ring and at any address", arguments: [0, 1, 6] as [UInt64])
  func indirect(shift: UInt64) throws {
    let driver = try Driver(size: 2)
    let queue = try driver.queue()
    let table = Driver.low + 0x20000 + shift
    let count: UInt16 = 20
    for i in 0..<count {
      driver.fill(Driver.buffers + UInt64(i), [UInt8(i)])
      let last = i == count - 1
      // Backwards through the buffers, so that nothing merges.
      driver.describe(
        i, Driver.buffers + UInt64(count - 1 - i), 1, last ? Flag.write : Flag.next, next: i + 1,
        table: table)
    }
    driver.describe(1, table, 16 * UInt32(count), Flag.indirect)
    driver.offer(1)
    let chain = try #require(try queue.pop())
    #expect(chain.head == 1)
    #expect(chain.request == (1..<20).reversed().map { UInt8($0) })
    #expect(chain.writableCount == 1)
  }

  /// A queue of any size takes as many as QEMU does, and keeps no memory for them afterwards.
  @Test("A chain may have 1024 descriptors, and not one more", arguments: [1024, 1025])
  func longest(count: Int) throws {
    let driver = try Driver()
    let queue = try driver.queue()
    let table = Driver.low + 0x20000
    for i in 0..<UInt16(count) {
      // Every other byte, so that nothing merges.
      driver.describe(
        i, Driver.buffers + 2 * UInt64(i), 1, i + 1 < count ? Flag.next : 0, next: i + 1,
        table: table)
    }
    driver.describe(0, table, 16 * UInt32(count), Flag.indirect)
    driver.offer(0)
    guard count == 1024 else {
      #expect(throws: RingError.chainTooLong(queue: 3, head: 0)) { try queue.pop() }
      return
    }
    let chain = try #require(try queue.pop())
    #expect(chain.readable.count == count && chain.readableCount == count)
    queue.push(chain, written: 0)
    #expect(chain.readable.capacity < count)
  }

  @Test("A direct descriptor may lead to an indirect table")
  func mixed() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    let table = Driver.low + 0x20000
    driver.fill(Driver.buffers, [1, 2])
    driver.describe(0, Driver.buffers + 1, 1, 0, table: table)
    driver.describe(0, Driver.buffers, 1, Flag.next, next: 1)
    driver.describe(1, table, 16, Flag.indirect)
    driver.offer(0)
    #expect(try queue.pop()?.request == [1, 2])
  }

  @Test("Indices wrap at 65536")
  func wrap() throws {
    let driver = try Driver(size: 4, start: 65_000)
    let queue = try driver.queue()
    for i in 0..<4 { driver.describe(UInt16(i), Driver.buffers, 8, Flag.write) }
    for round in 0..<70_000 {
      let head = UInt16(round % 4)
      driver.offer(head)
      guard let chain = try queue.pop() else {
        Issue.record("nothing to pop in round \(round)")
        return
      }
      queue.push(chain, written: UInt32(round % 8))
      let used = driver.used(driver.usedIndex &- 1)
      guard used == (UInt32(head), UInt32(round % 8)) else {
        Issue.record("round \(round): \(used)")
        return
      }
    }
    #expect(driver.usedIndex == UInt16(truncatingIfNeeded: 65_000 + 70_000))
    #expect(queue.nextAvailable == driver.available)
  }

  @Test("A ring goes on where the front-end says")
  func base() throws {
    let driver = try Driver(start: 500)
    driver.describe(1, Driver.buffers, 1)
    driver.offer(1)
    driver.available = 500
    let queue = try driver.queue()
    #expect(try queue.pop()?.head == 1)
    #expect(queue.nextAvailable == 501)
  }

  @Test("A ring follows its memory out and in again, and chains keep theirs")
  func memoryChanges() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.high, 4, Flag.write)
    driver.describe(1, Driver.buffers, 4)
    driver.offer(0)
    let chain = try #require(try queue.pop())
    let file = try #require(driver.memory.entries.first?.file)

    try driver.memory.remove(Driver.regions[1])
    #expect(chain.answer([1, 2, 3, 4]) == 4)
    let raw = try #require(file.pointer(at: 0x80000, count: 4))
    #expect(raw.load(as: UInt32.self) == 0x0403_0201)

    try driver.memory.remove(Driver.regions[0])
    let table = Driver.userBase + Driver.descriptorTable
    #expect(throws: RingError.unmapped(queue: 3, .descriptors, address: table)) {
      try queue.pop()
    }
    #expect(queue.failure == nil)
    driver.fileIndex(9)
    #expect(!queue.enableNotifications(), "there is nothing to serve while it is away")
    driver.fileIndex(1)
    try driver.memory.add(Driver.regions[0], driver.fd)
    driver.offer(1)
    queue.push(chain, written: 4)
    #expect(driver.used(0) == (0, 4))
    #expect(try queue.pop()?.head == 1)
  }

  @Test("An answer goes to where the ring is by then")
  func answersFollow() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.high, 4, Flag.write)
    driver.offer(0)
    let chain = try #require(try queue.pop())
    // The same addresses are another file now.
    try driver.memory.remove(Driver.regions[0])
    try driver.memory.add(Driver.regions[0], SharedFD(try MemFD.create("other", size: 0x100000)))
    #expect(driver.usedIndex == 0)
    queue.push(chain, written: 3)
    #expect(driver.usedIndex == 1)
    #expect(driver.used(0) == (0, 3))
  }
}
