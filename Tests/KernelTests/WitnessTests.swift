import CLinux
import Glibc
import GuestMemory
import Linux
import Testing

/// A witness of shared RAM whose pages are filled, exported and armed.
struct Watch {
  let ram: SharedRAM
  let keeper: WitnessKeeper
  let witness: Witness
  let pages: PageSpans

  init(
    _ detector: Detector, pages count: UInt64 = 64, hugePageSize: UInt64 = 0, control: CInt? = nil
  ) throws {
    ram = try SharedRAM(pages: count, hugePageSize: hugePageSize, control: control)
    keeper = try WitnessKeeper(detector: detector)
    witness = try keeper.witness(for: ram.file)
    pages = try witness.pages([ram.span(0, count)])
    ram.write(ram.span(0, count), UInt8(ascii: "a"))
    try witness.export(pages)
    try witness.arm(pages) { _ in }
  }

  func missing(_ span: PageSpan? = nil) throws -> Int {
    try witness.missing(in: span.map { try witness.pages([$0]) } ?? pages)
  }

  /// Arms again and returns the pages that had to be, in order.
  func rearm() throws -> [UInt64] {
    var gaps: Set<UInt64> = []
    try witness.arm(pages) { span in
      for page in span.offset / ram.unit..<span.end / ram.unit { gaps.insert(page) }
    }
    return gaps.sorted()
  }
}

@Suite("What the witness sees", .enabled(if: WitnessKeeper.isUsable))
struct WitnessTests {
  @Test("Pages that nobody discards stay proven", arguments: Detector.allCases)
  func quiet(_ detector: Detector) throws {
    let watch = try Watch(detector)
    #expect(watch.keeper.detector == detector)
    for _ in 0..<100 {
      watch.ram.write(watch.ram.span(0, 64), 7)
      #expect(try watch.missing() == 0)
    }
    #expect(try watch.rearm() == [])
  }

  @Test("Another process punches holes", arguments: Detector.allCases)
  func punch(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.punch(watch.ram.span(3))
    try watch.ram.puncher.punch(watch.ram.span(17, 4))
    #expect(try watch.missing(watch.ram.span(4, 13)) == 0)
    #expect(try watch.missing() == 5)
    #expect(try watch.missing() == 5, "it stays missing until armed again")
  }

  @Test("The guest refills a hole before anybody looks", arguments: Detector.allCases)
  func refill(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.punch(watch.ram.span(9))
    try watch.ram.puncher.fill(watch.ram.span(9), UInt8(ascii: "b"))
    watch.ram.write(watch.ram.span(9), UInt8(ascii: "c"))
    #expect(try watch.missing(watch.ram.span(9)) == 1)
    #expect(try watch.missing() == 1)
  }

  @Test("Another process uses MADV_REMOVE", arguments: Detector.allCases)
  func remove(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.remove(watch.ram.span(30, 2))
    #expect(try watch.missing() == 2)
  }

  @Test("Another process drops its own mapping only", arguments: Detector.allCases)
  func foreignUnmap(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.dropMapping(watch.ram.span(0, 64))
    #expect(try watch.missing() == 0)
  }

  @Test("This process drops witness pages", arguments: Detector.allCases)
  func ownRemoval(_ detector: Detector) throws {
    let watch = try Watch(detector)
    let start = watch.witness.base + 5 * 4096
    #expect(ph_madvise(start, 2 * 4096, MADV_DONTNEED) == 0)
    // The call goes on once the listener has read the event, a moment before it is counted.
    for _ in 0..<1000 where watch.keeper.removals == 0 { usleep(1000) }
    #expect(watch.keeper.removals == 1)
    #expect(try watch.missing() == 2)
  }

  @Test("Reading a neighbour does not hide a discard", arguments: Detector.allCases)
  func neighbour(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.punch(watch.ram.span(31, 2))
    watch.ram.write(watch.ram.span(31, 2), UInt8(ascii: "b"))
    ph_touch(watch.witness.base + 31 * 4096)
    #expect(watch.keeper.faults == 1)
    #expect(try watch.missing(watch.ram.span(32)) == 1, "not mapped along with its neighbour")
    #expect(try watch.missing() == 2)
    #expect(try watch.rearm() == [31, 32])
    #expect(try watch.missing() == 0)
  }

  @Test("A hole is not armed until it is filled", arguments: Detector.allCases)
  func hole(_ detector: Detector) throws {
    let watch = try Watch(detector)
    try watch.ram.puncher.punch(watch.ram.span(12))
    if detector == .faults {
      // Its listener fills the hole.
      #expect(try watch.rearm() == [12])
    } else {
      do {
        try watch.witness.arm(watch.pages) { _ in }
        Issue.record("armed a hole")
      } catch {
        guard case .hole(let offset) = error else { throw error }
        #expect(offset == 12 * 4096)
      }
      try watch.ram.file.populate(offset: 0, count: watch.ram.file.size)
      #expect(try watch.rearm() == [12])
    }
    #expect(try watch.missing() == 0)
    #expect(watch.ram.bytes[12 * 4096] == 0)
  }

  @Test("Arming again touches only what was gone", arguments: Detector.allCases)
  func gaps(_ detector: Detector) throws {
    let watch = try Watch(detector)
    for page in [0, 1, 33, 63] as [UInt64] {
      try watch.ram.puncher.punch(watch.ram.span(page))
      watch.ram.write(watch.ram.span(page), 1)
    }
    #expect(try watch.rearm() == [0, 1, 33, 63])
    #expect(try watch.rearm() == [])
    #expect(try watch.missing() == 0)
  }

  @Test("A thousand random discards", arguments: Detector.allCases)
  func thousand(_ detector: Detector) throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let watch = try Watch(detector, pages: 1024)
    var punched = 0
    while punched < 1000 {
      var gone: Set<UInt64> = []
      for _ in 0..<Int.random(in: 1...20, using: &random) {
        let page = UInt64.random(in: 0..<1024, using: &random)
        try watch.ram.puncher.punch(watch.ram.span(page))
        // Filled now so that arming works; the witness must not care when.
        watch.ram.write(watch.ram.span(page), UInt8.random(in: 0...255, using: &random))
        gone.insert(page)
        punched += 1
      }
      let one = try #require(gone.randomElement(using: &random))
      #expect(try watch.missing(watch.ram.span(one)) == 1)
      #expect(try watch.missing() == gone.count)
      #expect(try watch.rearm() == gone.sorted())
      #expect(try watch.missing() == 0)
    }
  }

  @Test("Scattered pages", arguments: Detector.allCases)
  func scattered(_ detector: Detector) throws {
    let watch = try Watch(detector, pages: 4096)
    // Every other page of a stretch, then single ones far apart: both ways of grouping.
    let near = (0..<600).map { watch.ram.span(UInt64($0) * 2) }
    let far = (1..<8).map { watch.ram.span(1200 + UInt64($0) * 300) }
    let pages = try watch.witness.pages(near + far)
    #expect(pages.runs.count == 607)
    try watch.witness.export(pages)
    try watch.witness.arm(pages) { _ in }
    for page in [1, 3, 599, 1201] as [UInt64] { try watch.ram.puncher.punch(watch.ram.span(page)) }
    #expect(try watch.witness.missing(in: pages) == 0, "none of its own")
    for page in [0, 598, 1198, 1500] as [UInt64] {
      try watch.ram.puncher.punch(watch.ram.span(page))
    }
    #expect(try watch.witness.missing(in: pages) == 4)
    watch.witness.unexport(pages)
  }

  @Test("Discards that race with arming are seen or were before it", arguments: Detector.allCases)
  func race(_ detector: Detector) throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let count = 256
    let control = try MemFD.create("control", size: count * 8)
    let counts = try Mapping(fd: control.raw, offset: 0, count: count * 8, writable: true)
    let begun = counts.base.assumingMemoryBound(to: UInt32.self)
    let watch = try Watch(detector, pages: UInt64(count), control: control.raw)
    let spans = try (0..<count).map { try watch.witness.pages([watch.ram.span(UInt64($0))]) }
    var rounds = 0
    var replaced = 0
    try watch.ram.puncher.beginHammer(seed: random.next() >> 8, times: 20000)
    for _ in 0..<300 {
      try watch.ram.file.populate(offset: 0, count: watch.ram.file.size)
      do throws(WitnessError) {
        try watch.witness.arm(watch.pages) { _ in }
      } catch {
        guard case .hole = error else { throw error }
        continue
      }
      rounds += 1
      let before = (0..<count).map { begun[$0] }
      usleep(useconds_t.random(in: 0..<2000, using: &random))
      for page in 0..<count {
        let finished = begun[count + page]
        guard finished > before[page] else { continue }
        replaced += 1
        #expect(try watch.witness.missing(in: spans[page]) == 1, "page \(page)")
      }
    }
    try watch.ram.puncher.finishHammer()
    print("\(detector): armed \(rounds) times, \(replaced) discards after it")
    #expect(replaced > 0)
  }
}

@Suite("How long a witness lives", .enabled(if: WitnessKeeper.isUsable))
struct WitnessLifeTests {
  @Test("One file has one witness, which goes with the file")
  func life() throws {
    let keeper = try WitnessKeeper()
    var ram: SharedRAM? = try SharedRAM(pages: 64)
    weak var gone: Witness?
    do {
      let file = try #require(ram?.file)
      let witness = try keeper.witness(for: file)
      #expect(try keeper.witness(for: file) === witness)
      gone = witness
    }
    #expect(gone != nil)
    ram = nil
    #expect(gone == nil, "it would keep the guest's RAM after the guest")
  }

  @Test("Nothing of the guest stays mapped when it has gone", arguments: Detector.allCases)
  func unmapped(_ detector: Detector) throws {
    let name = "gone-\(detector)"
    func mappings() throws -> Int {
      let text = try #require(WholeFile.text("/proc/self/maps"))
      return text.split(separator: "\n").count { $0.contains("memfd:\(name)") }
    }
    let keeper = try WitnessKeeper(detector: detector)
    do {
      let memory = try MemFD.create(name, size: 64 * pageSize, seals: [.shrink])
      let file = try GuestFile(memory)
      let witness = try keeper.witness(for: file)
      let pages = try witness.pages([PageSpan(offset: 0, count: file.size)])
      try witness.export(pages)
      try witness.fill(pages, of: file)
      try witness.arm(pages) { _ in }
      // Its own and the guest's, perhaps in several pieces.
      #expect(try mappings() >= 2)
      withExtendedLifetime((file, witness)) {}
    }
    #expect(try mappings() == 0)
  }

  @Test("A witness outlives its keeper", arguments: Detector.allCases)
  func outlives(_ detector: Detector) throws {
    let ram = try SharedRAM(pages: 64)
    ram.write(ram.span(0, 64), 1)
    var keeper: WitnessKeeper? = try WitnessKeeper(detector: detector)
    let witness = try #require(try keeper?.witness(for: ram.file))
    keeper = nil
    let pages = try witness.pages([ram.span(0, 64)])
    try witness.export(pages)
    try witness.arm(pages) { _ in }
    try ram.puncher.punch(ram.span(5))
    #expect(try witness.missing(in: pages) == 1)
    #expect(keeper == nil)
  }

  @Test("Pages past the end of the file are refused", arguments: Detector.allCases)
  func pastEnd(_ detector: Detector) throws {
    let ram = try SharedRAM(pages: 8)
    let witness = try WitnessKeeper(detector: detector).witness(for: ram.file)
    #expect(throws: WitnessError.self) { try witness.pages([ram.span(7, 2)]) }
    #expect(throws: WitnessError.self) { try witness.pages([PageSpan(offset: .max, count: 9)]) }
  }

  @Test("What cannot be watched says so")
  func refusals() throws {
    let keeper = try WitnessKeeper(detector: .faults)
    let unsealed = try GuestFile(MemFD.create("ram", size: 4096))
    let witness = try keeper.witness(for: unsealed)
    do {
      try witness.export(try witness.pages([PageSpan(offset: 0, count: 4096)]))
      Issue.record("would risk SIGBUS")
    } catch {
      guard case .noShrinkSeal = error else { throw error }
    }
  }

  @Test("Exports overlap, and end one by one", arguments: Detector.allCases)
  func exports(_ detector: Detector) throws {
    let watch = try Watch(detector)
    let some = try watch.witness.pages([watch.ram.span(10, 20)])
    try watch.witness.export(some)
    watch.witness.unexport(watch.pages)
    watch.witness.unexport(watch.pages)
    try watch.ram.puncher.punch(watch.ram.span(12))
    #expect(try watch.witness.missing(in: some) == 1, "still exported by the other")
    watch.witness.unexport(some)
  }
}
