import Buffers
import CLinux
import Glibc
import GuestMemory
import Linux
import Testing

/// What takes pages out of mappings without replacing them: at worst a buffer is made again for
/// nothing, and never is a picture wrong.
@Suite(
  "Memory pressure and huge pages under a buffer", .serialized,
  .enabled(if: udmabufProblem == nil, "needs /dev/udmabuf and userfaultfd"))
struct MemoryPressureTests {
  private static let pageOut: CInt = 21  // MADV_PAGEOUT
  private static let collapse: CInt = 25  // MADV_COLLAPSE

  private func under(
    _ detector: Detector, pages: UInt64, runs: [(page: UInt64, count: UInt64)],
    _ pressure: (ShownPicture, Int) throws -> Void
  ) throws -> BufferCounters {
    let shown = try ShownPicture(detector, pages: pages, runs: runs)
    var buffer: PageBuffer? = try shown.make()
    for round in 0..<20 {
      try pressure(shown, round)
      // Half of the rounds look after the guest has written, the others before.
      if round % 2 == 0 { shown.ram.write(shown.ram.span(0, pages), UInt8(round)) }
      let shownBuffer = try #require(buffer)
      if case .lost(_, let reason) = shown.store.check(shownBuffer) {
        Issue.record("lost: \(reason)")
        return shown.store.counters
      }
      shown.ram.write(shown.ram.span(0, pages), UInt8(round + 100))
      try shown.expectGuestPixels(shownBuffer, "round \(round)")
    }
    if let last = buffer { shown.store.drop(last) }
    buffer = nil
    let counters = shown.store.counters
    #expect(counters.pins == counters.unpins)
    #expect(counters.checks == 20 && counters.losses == 0)
    #expect(counters.rebuilds == counters.discards, "each discard is mended, and nothing else")
    return counters
  }

  private func advise(_ shown: ShownPicture, _ advice: CInt) -> CInt {
    ph_madvise(shown.ram.bytes.baseAddress, shown.ram.bytes.count, advice)
  }

  @Test("Pages that are written out", arguments: Detector.allCases)
  func pageOut(_ detector: Detector) throws {
    let counters = try under(detector, pages: 512, runs: [(0, 64), (256, 128)]) { shown, _ in
      #expect(advise(shown, Self.pageOut) == 0)
    }
    print("MADV_PAGEOUT, \(detector): \(counters.rebuilds) needless rebuilds in 20 rounds")
  }

  /// The control group's `memory.reclaim`, where the VM has given us one and swap.
  private static let reclaimer = getenv("PINHOLE_RECLAIM").map { String(cString: $0) }

  @Test(
    "Pages that the kernel reclaims", .enabled(if: reclaimer != nil, "needs a group and swap"),
    arguments: Detector.allCases)
  func reclaim(_ detector: Detector) throws {
    let file = try OwnedFD.open(try #require(Self.reclaimer), O_WRONLY)
    let counters = try under(detector, pages: 512, runs: [(0, 64), (256, 128)]) { _, _ in
      // As much as there is; EAGAIN says that this was not enough.
      let wanted = "1G"
      #expect(write(file.raw, wanted, wanted.utf8.count) > 0 || errno == EAGAIN)
    }
    print("memory.reclaim, \(detector): \(counters.rebuilds) needless rebuilds in 20 rounds")
    #expect(counters.rebuilds > 0, "the pages were taken out of the mappings, and put back")
  }

  /// The guest's memory in another mapping, which begins where huge pages do: the kernel collects
  /// nothing in others.
  private final class Collector {
    private static let size = 2 << 20
    private let reserved: Mapping
    private let start: UnsafeMutableRawPointer
    private let count: Int

    init(_ ram: SharedRAM) throws {
      count = ram.bytes.count / Self.size
      let room = try MemFD.create("room", size: (count + 1) * Self.size)
      reserved = try Mapping(
        fd: room.raw, offset: 0, count: (count + 1) * Self.size, writable: true)
      let base = UInt(bitPattern: reserved.base)
      let aligned = (base + UInt(Self.size) - 1) / UInt(Self.size) * UInt(Self.size)
      start = reserved.base + Int(aligned - base)
      let fixed = mmap(
        start, count * Self.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
        ram.file.fd.raw, 0)
      guard fixed == start else { throw Errno(errno, "mmap") }
    }

    /// How many of the stretches of 2 MiB are huge pages now; those with pinned pages cannot be.
    func collect() -> Int {
      (0..<count).count {
        ph_madvise(start + $0 * Self.size, Self.size, MemoryPressureTests.collapse) == 0
      }
    }
  }

  private static let collectedRuns: [(page: UInt64, count: UInt64)] = [(0, 64), (700, 300)]

  /// Whether the kernel collects pages of a memfd beside a buffer at all.
  private static let collects: Bool = {
    guard udmabufProblem == nil,
      let shown = try? ShownPicture(.scan, pages: 1536, runs: collectedRuns),
      let buffer = try? shown.make(), let collector = try? Collector(shown.ram)
    else { return false }
    defer { shown.store.drop(buffer) }
    return collector.collect() > 0
  }()

  @Test(
    "Pages that are collected into huge ones",
    .enabled(if: collects, "the kernel refuses each MADV_COLLAPSE"), arguments: Detector.allCases)
  func collapse(_ detector: Detector) throws {
    var collected = 0
    var collector: Collector?
    let counters = try under(detector, pages: 1536, runs: Self.collectedRuns) { shown, _ in
      if collector == nil { collector = try Collector(shown.ram) }
      collected += collector?.collect() ?? 0
    }
    print(
      "MADV_COLLAPSE, \(detector): \(collected) of 60 done, \(counters.rebuilds) needless rebuilds "
        + "in 20 rounds")
    #expect(collected > 0, "nothing was collected, which proves nothing")
  }

  @Test(
    "A part of a transparent huge page is discarded",
    .enabled(if: TransparentHugePages.canBeHad, "needs a kernel that has them"),
    arguments: Detector.allCases)
  func partOfHuge(_ detector: Detector) throws {
    let before = try TransparentHugePages.set("always")
    defer { _ = try? TransparentHugePages.set(before) }
    let made = TransparentHugePages.made
    let counters = try under(detector, pages: 1536, runs: [(512, 512)]) { shown, round in
      #expect(TransparentHugePages.made >= made + 3, "the memory is of small pages")
      try shown.ram.puncher.punch(shown.ram.span(512 + UInt64(round) * 7, UInt64(1 + round % 3)))
    }
    #expect(counters.discards == 20)
  }

  @Test(
    "A large picture in one piece is not too many pieces", arguments: [(3840, 2160), (7680, 4320)])
  func large(_ size: (width: UInt64, height: UInt64)) throws {
    let limits = UdmabufDevice.Limits.read()
    let pages = size.width * size.height * 4 / 4096
    // Page by page as some guests send it, but in order: merged.
    let single = (0..<pages).map { (page: $0, count: UInt64(1)) }
    let shown = try ShownPicture(.scan, pages: pages, runs: single)
    guard limits.bytes >= pages * 4096 else { return try expectTooLarge(shown, limits) }
    let buffer = try shown.make()
    #expect(buffer.ranges.count == 1)
    try shown.ram.puncher.punch(shown.ram.span(pages / 2, 100))
    #expect(shown.store.check(buffer).replacement != nil)
    try shown.expectGuestPixels(buffer)
  }

  private func expectTooLarge(_ shown: ShownPicture, _ limits: UdmabufDevice.Limits) throws {
    guard
      case .failure(let reason) = shown.store.make(layout: shown.layout, ranges: shown.ranges),
      case .tooLarge(_, let limit) = reason
    else {
      Issue.record("not too large")
      return
    }
    #expect(limit == limits.bytes)
    #expect("\(reason)".contains("size_limit_mb"))
  }

  @Test("More than udmabuf takes is copied, with advice")
  func tooLarge() throws {
    let limits = UdmabufDevice.Limits.read()
    let pages = limits.bytes / 4096 + 1
    try expectTooLarge(try ShownPicture(.scan, pages: pages, runs: [(0, pages)]), limits)
  }

  @Test("More pieces than udmabuf takes are copied, with advice")
  func tooManyPieces() throws {
    let limits = UdmabufDevice.Limits.read()
    let runs = (0...UInt64(limits.entries)).map { (page: $0 * 2, count: UInt64(1)) }
    let shown = try ShownPicture(.scan, pages: UInt64(runs.count) * 2, runs: runs)
    guard case .failure(let reason) = shown.store.make(layout: shown.layout, ranges: shown.ranges)
    else {
      Issue.record("not too many pieces")
      return
    }
    #expect("\(reason)".contains("list_limit"))
  }
}
