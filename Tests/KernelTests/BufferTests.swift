import Buffers
import Glibc
import GuestMemory
import Linux
import Pixels
import Testing

@Suite(
  "Buffers over guest pages",
  .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct BufferTests {
  static let runs: [(page: UInt64, count: UInt64)] = [(0, 4), (300, 4), (301 + 4, 1), (900, 7)]

  @Test("A buffer shows what the guest draws", arguments: Detector.allCases)
  func live(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let buffer = try shown.make()
    try shown.expectGuestPixels(buffer)
    let first = try #require(buffer.current)
    #expect(first.generation == 1)
    #expect(first.size == 16 * 4096)
    #expect(first.memory == .guestPages)
    shown.ram.write(shown.ram.span(0, 1024), UInt8(ascii: "b"))
    #expect(shown.store.check(buffer).isIntact)
    #expect(buffer.current === first)
    try shown.expectGuestPixels(buffer)
    #expect(shown.store.counters.rebuilds == 0)
  }

  @Test("Pins end when nobody holds the pages any more")
  func pins() throws {
    let shown = try ShownPicture(.scan, pages: 64, runs: [(0, 16)])
    #expect(shown.store.reports.isEmpty)
    let buffer = try shown.make()
    #expect(!shown.store.reports.isEmpty)
    #expect(shown.store.pinnedBytes == 16 * 4096)
    try shown.ram.puncher.punch(shown.ram.span(3))
    var held = shown.store.check(buffer).replacement
    #expect(held != nil)
    #expect(shown.store.pinnedBytes == 32 * 4096, "consumers may still look at the old pages")
    held = nil
    #expect(shown.store.pinnedBytes == 16 * 4096)
    shown.store.drop(buffer)
    #expect(shown.store.reports.isEmpty)
    #expect(shown.store.pinnedBytes == 0)
    #expect(shown.store.counters.pins == 2)
    #expect(shown.store.counters.unpins == 2)
  }

  @Test("A buffer that is let go is not watched for holes any more")
  func unwatched() throws {
    let shown = try ShownPicture(.faults, pages: 64, runs: [(0, 16)])
    let witness = try shown.keeper.witness(for: shown.ram.file)
    func areWatched() throws -> Bool {
      try mappingFlags(witness.base, shown.ram.file.size).contains { $0.contains("um") }
    }
    let one = try shown.make()
    let other = try shown.make()
    #expect(try areWatched())
    shown.store.drop(one)
    #expect(try areWatched(), "another buffer is on the same pages")
    shown.store.drop(other)
    #expect(try !areWatched())
    // Nor after a build that failed.
    shown.store.onStep = { step in
      if step == .verify { try? shown.ram.puncher.punch(shown.ram.span(1)) }
    }
    guard
      case .failure(.discardsOutran) = shown.store.make(layout: shown.layout, ranges: shown.ranges)
    else {
      Issue.record("it was built")
      return
    }
    shown.store.onStep = nil
    #expect(try !areWatched())
  }

  @Test("One that was lost takes the watch from nobody when it is let go")
  func lostAndLetGo() throws {
    let shown = try ShownPicture(.faults, pages: 64, runs: [(0, 16)])
    let witness = try shown.keeper.witness(for: shown.ram.file)
    let lost = try shown.make()
    let other = try shown.make()
    shown.store.onStep = { step in
      if step == .verify { try? shown.ram.puncher.punch(shown.ram.span(1)) }
    }
    try shown.ram.puncher.punch(shown.ram.span(1))
    guard case .lost = shown.store.check(lost) else {
      Issue.record("not lost")
      return
    }
    shown.store.onStep = nil
    shown.store.drop(lost)
    let flags = try mappingFlags(witness.base, shown.ram.file.size)
    #expect(flags.contains { $0.contains("um") }, "the other one is on the same pages")
    #expect(shown.store.check(other).replacement != nil)
    try shown.ram.puncher.punch(shown.ram.span(2))
    shown.ram.write(shown.ram.span(0, 64), UInt8(ascii: "b"))
    #expect(shown.store.check(other).replacement != nil)
    try shown.expectGuestPixels(other)
  }

  @Test("A discard raises the generation", arguments: Detector.allCases)
  func generation(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let buffer = try shown.make()
    try shown.ram.puncher.punch(shown.ram.span(301, 2))
    shown.ram.write(shown.ram.span(0, 1024), UInt8(ascii: "b"))
    let (old, new) = try #require(shown.store.check(buffer).replacement)
    #expect(old.id == new.id)
    #expect(old.generation == 1)
    #expect(new.generation == 2)
    #expect(buffer.current === new)
    #expect(try shown.firstDifference(old.fd) == 4 * 4096 + 4096, "the old one has the old page")
    #expect(try shown.firstDifference(new.fd) == nil)
    #expect(shown.store.counters.discardedPages == 2)
    #expect(shown.store.check(buffer).isIntact)
  }

  @Test("A discard beside the picture changes nothing", arguments: Detector.allCases)
  func beside(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let buffer = try shown.make()
    for page in [4, 299, 304, 306, 899, 907] as [UInt64] {
      try shown.ram.puncher.punch(shown.ram.span(page))
    }
    #expect(shown.store.check(buffer).isIntact)
  }

  @Test("A hole reads as zero, and later writes are seen", arguments: Detector.allCases)
  func hole(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let buffer = try shown.make()
    try shown.ram.puncher.punch(shown.ram.span(0, 2))
    let new = try #require(shown.store.check(buffer).replacement).new
    #expect(try shownBytes(new.fd.raw, count: 2 * 4096).allSatisfy { $0 == 0 })
    #expect(shown.ram.bytes[0] == 0)
    try shown.ram.puncher.fill(shown.ram.span(0, 2), UInt8(ascii: "c"))
    #expect(shown.store.check(buffer).isIntact, "the zero page is the guest's own")
    try shown.expectGuestPixels(buffer)
    #expect(shown.ram.bytes[0] == UInt8(ascii: "c"))
  }

  @Test("Two pictures on the same pages both learn of a discard", arguments: Detector.allCases)
  func shared(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let one = try shown.make()
    let other = try shown.make()
    #expect(one.id != other.id)
    try shown.ram.puncher.punch(shown.ram.span(301))
    shown.ram.write(shown.ram.span(0, 1024), UInt8(ascii: "b"))
    #expect(shown.store.check(one).replacement != nil)
    #expect(shown.store.check(other).replacement != nil)
    try shown.expectGuestPixels(one)
    try shown.expectGuestPixels(other)
    #expect(shown.store.check(one).isIntact)
    #expect(shown.store.check(other).isIntact)
    try shown.ram.puncher.punch(shown.ram.span(301))
    let third = try shown.make()
    #expect(shown.store.check(third).isIntact)
    #expect(shown.store.check(one).replacement != nil)
    #expect(shown.store.check(other).replacement != nil)
  }

  @Test("A picture in two memfds")
  func twoFiles() throws {
    let shown = try ShownPicture(.scan, pages: 64, runs: [(0, 4)])
    let second = try SharedRAM(pages: 64)
    second.write(second.span(0, 64), UInt8(ascii: "2"))
    let more = FileRange(file: second.file, offset: 8 * 4096, count: 4 * 4096)
    let layout = PixelLayout(width: 1024, height: 8, stride: 4096, fourcc: .xrgb8888)
    let buffer = try shown.store.make(layout: layout, ranges: shown.ranges + [more]).get()
    try second.puncher.punch(second.span(9))
    let new = try #require(shown.store.check(buffer).replacement).new
    let all = try shownBytes(new.fd.raw, count: 8 * 4096)
    let bytes = [all[0], all[4 * 4096], all[5 * 4096], all[6 * 4096]]
    #expect(bytes == [UInt8(ascii: "a"), UInt8(ascii: "2"), 0, UInt8(ascii: "2")])
  }

  @Test("A thousand discards in a row, each rewritten", arguments: Detector.allCases)
  func thousand(_ detector: Detector) throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let shown = try ShownPicture(detector, pages: 1024, runs: Self.runs)
    let pages = Self.runs.flatMap { run in (0..<run.count).map { run.page + $0 } }
    let buffer = try shown.make()
    let once = try #require(try shown.make().current)
    var stale = 0
    for _ in 0..<1000 {
      let page = try #require(pages.randomElement(using: &random))
      try shown.ram.puncher.punch(shown.ram.span(page))
      shown.ram.write(shown.ram.span(page), UInt8.random(in: 0...255, using: &random))
      #expect(shown.store.check(buffer).replacement != nil)
      try shown.expectGuestPixels(buffer)
      if try shown.firstDifference(once.fd) != nil { stale += 1 }
    }
    #expect(buffer.current?.generation == 1001)
    print("\(detector): a buffer made once was stale at \(stale) of 1000 flushes")
    #expect(stale > 900)
    #expect(shown.store.counters.rebuilds == 1000)
  }

  @Test("The guest's memory under fire while buffers are built", arguments: Detector.allCases)
  func underFire(_ detector: Detector) throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let shown = try ShownPicture(detector, pages: 64, runs: [(0, 8), (40, 8)])
    var buffer = try shown.make()
    for _ in 0..<100 {
      try shown.ram.puncher.beginHammer(seed: random.next() >> 8, times: 300)
      for _ in 0..<3 where buffer.current != nil { _ = shown.store.check(buffer) }
      try shown.ram.puncher.finishHammer()
      // The flush: nothing is written or discarded any more.
      if buffer.current != nil { _ = shown.store.check(buffer) }
      if buffer.current == nil { buffer = try shown.make() }
      try shown.expectGuestPixels(buffer)
    }
    let counters = shown.store.counters
    print(
      "\(detector): \(counters.rebuilds) rebuilds, \(counters.retries) retries, "
        + "\(counters.losses) outrun")
    #expect(counters.rebuilds > 50)
  }
}
