import GuestMemory
import Linux
import Testing
import Virtqueue

@Suite("Rings that break the rules")
struct HostileRingTests {
  struct Case: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let expected: RingError
    var indirect = true
    let prepare: @Sendable (Driver) -> Void
  }

  static let table = Driver.low + 0x20000

  static let direct: [Case] = [
    Case(
      testDescription: "available index jumps", expected: .availableJump(queue: 3, from: 0, to: 9)
    ) { $0.setAvailableIndex(9) },
    Case(
      testDescription: "available index goes back",
      expected: .availableJump(queue: 3, from: 0, to: 65535)
    ) { $0.setAvailableIndex(65535) },
    Case(testDescription: "head out of range", expected: .headOutOfRange(queue: 3, head: 8)) {
      $0.offer(8)
    },
    Case(
      testDescription: "next out of range",
      expected: .nextOutOfRange(queue: 3, head: 1, next: 8)
    ) {
      $0.describe(1, Driver.buffers, 1, Flag.next, next: 8)
      $0.offer(1)
    },
    Case(testDescription: "descriptor is its own next", expected: .chainTooLong(queue: 3, head: 1))
    {
      $0.describe(1, Driver.buffers, 1, Flag.next, next: 1)
      $0.offer(1)
    },
    Case(testDescription: "loop", expected: .chainTooLong(queue: 3, head: 0)) {
      for i in 0..<8 as Range<UInt16> {
        $0.describe(i, Driver.buffers, 1, Flag.next, next: (i + 1) % 8)
      }
      $0.offer(0)
    },
    Case(
      testDescription: "buffer outside memory",
      expected: .bufferUnmapped(queue: 3, head: 0, address: Driver.end, count: 1)
    ) {
      $0.describe(0, Driver.end, 1)
      $0.offer(0)
    },
    Case(
      testDescription: "buffer reaches out of memory",
      expected: .bufferUnmapped(queue: 3, head: 0, address: Driver.end - 1, count: 2)
    ) {
      $0.describe(0, Driver.end - 1, 2, Flag.write)
      $0.offer(0)
    },
    Case(
      testDescription: "buffer wraps around",
      expected: .bufferUnmapped(queue: 3, head: 0, address: .max, count: 2)
    ) {
      $0.describe(0, .max, 2)
      $0.offer(0)
    },
    Case(
      testDescription: "readable after writable",
      expected: .readableAfterWritable(queue: 3, head: 0)
    ) {
      $0.describe(0, Driver.buffers, 1, Flag.write | Flag.next, next: 1)
      $0.describe(1, Driver.buffers, 1)
      $0.offer(0)
    },
    Case(testDescription: "more than 4 GiB", expected: .tooManyBytes(queue: 3, head: 0)) {
      $0.describe(0, Driver.buffers, 1, Flag.next, next: 1)
      $0.describe(1, Driver.buffers, .max)
      $0.offer(0)
    },
  ]

  static let indirect: [Case] = [
    Case(
      testDescription: "not negotiated", expected: .indirectNotNegotiated(queue: 3, head: 0),
      indirect: false
    ) {
      $0.describe(0, table, 16, Flag.indirect)
      $0.offer(0)
    },
    Case(testDescription: "with next", expected: .indirectWithNext(queue: 3, head: 0)) {
      $0.describe(0, table, 16, Flag.indirect | Flag.next)
      $0.offer(0)
    },
    Case(testDescription: "nested", expected: .nestedIndirect(queue: 3, head: 0)) {
      $0.describe(0, table, 16, Flag.indirect, table: table)
      $0.describe(0, table, 16, Flag.indirect)
      $0.offer(0)
    },
    Case(
      testDescription: "odd length", expected: .indirectLength(queue: 3, head: 0, count: 24)
    ) {
      $0.describe(0, table, 24, Flag.indirect)
      $0.offer(0)
    },
    Case(testDescription: "empty", expected: .indirectLength(queue: 3, head: 0, count: 0)) {
      $0.describe(0, table, 0, Flag.indirect)
      $0.offer(0)
    },
    Case(
      testDescription: "too long",
      expected: .indirectLength(queue: 3, head: 0, count: 0xffff_fff0)
    ) {
      $0.describe(0, table, 0xffff_fff0, Flag.indirect)
      $0.offer(0)
    },
    Case(
      testDescription: "outside memory",
      expected: .indirectUnmapped(queue: 3, head: 0, address: 0)
    ) {
      $0.describe(0, 0, 16, Flag.indirect)
      $0.offer(0)
    },
    Case(
      testDescription: "runs out of memory",
      expected: .indirectUnmapped(queue: 3, head: 0, address: Driver.end)
    ) {
      $0.describe(0, Driver.buffers, 1, Flag.next, next: 1, table: Driver.end - 16)
      $0.describe(0, Driver.end - 16, 32, Flag.indirect)
      $0.offer(0)
    },
    Case(
      testDescription: "next outside its table",
      expected: .nextOutOfRange(queue: 3, head: 0, next: 1)
    ) {
      $0.describe(0, Driver.buffers, 1, Flag.next, next: 1, table: table)
      $0.describe(0, table, 16, Flag.indirect)
      $0.offer(0)
    },
    Case(testDescription: "loop", expected: .chainTooLong(queue: 3, head: 0)) {
      $0.describe(0, Driver.buffers, 1, Flag.next, next: 0, table: table)
      $0.describe(0, table, 0x10000, Flag.indirect)
      $0.offer(0)
    },
  ]

  @Test("Each fault has its name, and ends the ring", arguments: direct + indirect)
  func faults(_ fault: Case) throws {
    let driver = try Driver()
    let queue = try driver.queue(indirect: fault.indirect)
    fault.prepare(driver)
    #expect(throws: fault.expected) { try queue.pop() }
    #expect(queue.failure == fault.expected)
    #expect(fault.expected.description.hasPrefix("queue 3: "))
    driver.setAvailableIndex(0)
    #expect(throws: fault.expected, "the ring stays dead") { try queue.pop() }
    #expect(!queue.enableNotifications())
    #expect(!queue.shouldNotify())
  }

  @Test("A dead ring takes no answers")
  func deadRing() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.buffers, 1)
    driver.offer(0)
    let chain = try #require(try queue.pop())
    driver.offer(77)
    #expect(throws: RingError.headOutOfRange(queue: 3, head: 77)) { try queue.pop() }
    queue.push(chain, written: 0)
    #expect(driver.usedIndex == 0)
    #expect(queue.inFlight == 0)
  }

  @Test("A guest cannot make a ring hold more chains than it has descriptors")
  func tooManyInFlight() throws {
    let driver = try Driver()
    let queue = try driver.queue()
    driver.describe(0, Driver.buffers, 1)
    for _ in 0..<8 {
      driver.offer(0)
      #expect(try queue.pop() != nil)
    }
    driver.offer(0)
    #expect(throws: RingError.tooManyInFlight(queue: 3, size: 8)) { try queue.pop() }
  }

  @Test("Sizes and addresses are checked before a ring starts")
  func badSetup() throws {
    for size in [0, 3, 6, 65535] as [UInt16] {
      let driver = try Driver(size: size == 0 ? 8 : size)
      #expect(throws: RingError.size(queue: 0, size: size)) {
        try Virtqueue(
          index: 0, size: size, addresses: driver.addresses, memory: driver.memory,
          indirect: true, eventIndex: true)
      }
    }
    func check(_ part: RingError.Part, _ path: WritableKeyPath<RingAddresses, UInt64>) throws {
      let driver = try Driver()
      driver.addresses[keyPath: path] += 1
      let odd = driver.addresses[keyPath: path]
      #expect(throws: RingError.misaligned(queue: 3, part, address: odd)) { try driver.queue() }
      let last = Driver.userBase + Driver.end - 2
      driver.addresses[keyPath: path] = last
      #expect(throws: RingError.unmapped(queue: 3, part, address: last)) { try driver.queue() }
      driver.addresses[keyPath: path] = .max - 1
      #expect(throws: RingError.unmapped(queue: 3, part, address: .max - 1)) {
        try driver.queue()
      }
    }
    try check(.descriptors, \.descriptors)
    try check(.available, \.available)
    try check(.used, \.used)
  }

  @Test("The last words of the rings are checked only where they are used")
  func eventWords() throws {
    let driver = try Driver()
    driver.addresses.used = Driver.userBase + Driver.end - 4 - 8 * 8
    #expect(throws: Never.self) { try driver.queue(eventIndex: false) }
    #expect(throws: RingError.self) { try driver.queue(eventIndex: true) }
  }

  @Test("Random rings end in a chain within memory or in an error")
  func random() throws {
    var random = Seeded()
    let seed = random.seed
    print("random rings: seed \(seed)")
    var chains = 0
    var errors = 0
    for round in 0..<3000 {
      let driver = try Driver()
      let queue = try driver.queue(eventIndex: Bool.random(using: &random))
      for table in [Driver.descriptorTable, Self.table] {
        for i in 0..<8 as Range<UInt16> { driver.describeRandomly(i, table, using: &random) }
      }
      for _ in 0..<Int.random(in: 1...12, using: &random) {
        driver.offer(UInt16.random(in: 0...8, using: &random))
      }
      do throws(RingError) {
        while let chain = try queue.pop() {
          chains += 1
          let readable = chain.readable.reduce(0) { $0 + $1.count }
          #expect(readable == UInt64(chain.readableCount), "seed \(seed) round \(round)")
          for range in chain.readable + chain.writable {
            #expect(range.file.pointer(at: range.offset, count: range.count) != nil)
          }
          if chain.writableCount < 0x10000 { _ = chain.answer(chain.request) }
          queue.push(chain, written: .max)
        }
      } catch { errors += 1 }
      #expect(queue.inFlight == 0, "seed \(seed) round \(round)")
    }
    #expect(chains > 100, "seed \(seed): the test must reach good chains")
    #expect(errors > 100, "seed \(seed): the test must reach bad chains")
  }
}

extension Driver {
  fileprivate func describeRandomly(
    _ index: UInt16, _ table: UInt64, using random: inout Seeded
  ) {
    let places: [UInt64] = [
      Driver.buffers, Driver.high - 8, HostileRingTests.table, HostileRingTests.table + 3,
      Driver.end - 16, Driver.end, 0, .max - 4,
    ]
    let counts: [UInt32] = [1, 16, 32, 128, 4096, 0, .max]
    let weighted = Int.random(in: 0..<10, using: &random)
    describe(
      index, places[weighted < 8 ? weighted % 4 : Int.random(in: 4..<8, using: &random)],
      counts[weighted < 9 ? Int.random(in: 0..<5, using: &random) : weighted % 7],
      UInt16.random(in: 0...7, using: &random), next: UInt16.random(in: 0...8, using: &random),
      table: table)
  }
}
