import Buffers
import CLinux
import FakeGuest
import Glibc
import GuestMemory
import Linux
import Pixels
import Testing

/// Pages that the kernel moves or loses under a buffer. `Tests/run kernel` gives them a VM of their
/// own, with two nodes of memory and some that may be taken away.
@Suite(
  "Pages that move, and pages that die", .serialized,
  .enabled(if: hasUdmabuf && bufferProblem == nil, "needs /dev/udmabuf and userfaultfd"))
struct MovingPagesTests {
  /// A number of /proc/vmstat.
  private func vmstat(_ name: Substring) throws -> Int {
    try #require(try KernelTests.vmstat()[name])
  }

  @Test(
    "Memory is compacted",
    .enabled(if: access("/proc/sys/vm/compact_memory", W_OK) == 0, "needs root"),
    arguments: Detector.allCases)
  func compaction(_ detector: Detector) throws {
    // Holes between the pages of a large file give compaction something to do.
    let ballast = try SharedRAM(pages: 32_768)
    ballast.write(ballast.span(0, 32_768), 1)
    let shown = try ShownPicture(detector, pages: 1024, runs: BufferTests.runs)
    let buffer = try shown.make()
    for page in stride(from: 0 as UInt64, to: 32_768, by: 2) {
      try MemFD.punchHole(ballast.file.fd.raw, offset: page * 4096, count: 4096)
    }
    let before = try vmstat("pgmigrate_success")
    for round in 0..<3 {
      try WholeFile.write(Array("1".utf8), to: "/proc/sys/vm/compact_memory")
      shown.ram.write(shown.ram.span(0, 1024), UInt8(round + 10))
      if case .lost(_, let reason) = shown.store.check(buffer) { Issue.record("lost: \(reason)") }
      try shown.expectGuestPixels(buffer, "round \(round)")
    }
    let moved = try vmstat("pgmigrate_success") - before
    print(
      "compact_memory, \(detector): \(moved) pages moved, \(shown.store.counters.rebuilds) rebuilds"
    )
    #expect(moved > 0, "nothing moved, which proves nothing")
  }

  @Test(
    "Pages are moved to another node",
    .enabled(if: MemoryBlocks.nodes > 1, "needs two nodes of memory"),
    arguments: Detector.allCases)
  func movedToAnotherNode(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 64, runs: [(8, 16), (40, 8)])
    let buffer = try shown.make()
    let before = try vmstat("pgmigrate_success")
    for round in 0..<4 {
      // All of the guest's pages, of which those in the buffer are pinned.
      try shown.ram.puncher.move(shown.ram.span(0, 64), toNode: UInt8(round % 2))
      shown.ram.write(shown.ram.span(0, 64), UInt8(round + 10))
      if case .lost(_, let reason) = shown.store.check(buffer) { Issue.record("lost: \(reason)") }
      try shown.expectGuestPixels(buffer, "round \(round)")
    }
    let moved = try vmstat("pgmigrate_success") - before
    print(
      "move_pages, \(detector): \(moved) pages moved, \(shown.store.counters.rebuilds) rebuilds")
    #expect(moved > 0, "nothing moved, which proves nothing")
  }

  @Test(
    "The memory that pages lay in is taken away",
    .enabled(if: !MemoryBlocks.movable.isEmpty, "needs memory that goes offline"),
    arguments: Detector.allCases)
  func memoryGoesOffline(_ detector: Detector) throws {
    let movable = MemoryBlocks.movable
    let shown = try ShownPicture(detector, pages: 1024, runs: [(0, 512)])
    let picture = shown.ram.span(0, 512)
    let lay = try MemoryBlocks.holding(picture, of: shown.ram).intersection(movable)
    try #require(!lay.isEmpty, "the guest's pages lay in no block of ZONE_MOVABLE")
    let before = try vmstat("pgmigrate_success")
    let buffer = try shown.make()
    // What is pinned for long leaves ZONE_MOVABLE first (FOLL_LONGTERM).
    #expect(try vmstat("pgmigrate_success") > before)
    shown.ram.write(picture, 7)
    #expect(try MemoryBlocks.holding(picture, of: shown.ram).isDisjoint(with: movable))
    defer { for block in lay { MemoryBlocks.set(block, "online_movable") } }
    for block in lay {
      // Somebody else's pages may be in use for a moment.
      let isOffline = (0..<20).contains { _ in MemoryBlocks.set(block, "offline") }
      #expect(isOffline, "block \(block) did not go offline while the buffer lives")
    }
    if case .lost(_, let reason) = shown.store.check(buffer) { Issue.record("lost: \(reason)") }
    shown.ram.write(picture, 8)
    try shown.expectGuestPixels(buffer)
    print(
      "offline, \(detector): blocks \(lay.sorted()), \(shown.store.counters.rebuilds) rebuilds")
  }

  /// Makes the kernel treat a page of this process as broken; false without CONFIG_MEMORY_FAILURE.
  private func poison(_ page: UnsafeMutableRawPointer) -> Bool {
    let hwpoison: CInt = 100  // MADV_HWPOISON
    let result = ph_madvise(page, 4096, hwpoison)
    // EBUSY tells that somebody still has the page, which is out of all page tables all the same.
    #expect([0, -EBUSY, -EINVAL].contains(result), "madvise: \(result)")
    return result != -EINVAL
  }

  @Test(
    "A page is poisoned", .enabled(if: geteuid() == 0, "needs root"), arguments: Detector.allCases)
  func poisoned(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 64, runs: [(0, 16)])
    let buffer = try shown.make()
    let page = try #require(shown.ram.file.pointer(at: 5 * 4096, count: 4096))
    try #require(poison(page), "a kernel without CONFIG_MEMORY_FAILURE")
    // The picture cannot be made again; this process, and the next picture, live on.
    let outcome = shown.store.check(buffer)
    print("MADV_HWPOISON, \(detector): \(outcome)")
    #expect(!outcome.isIntact, "nobody noticed that a page is gone")
    shown.store.drop(buffer)
    let other = try shown.store.make(
      layout: PixelLayout(width: 1024, height: 8, stride: 4096, fourcc: .xrgb8888),
      ranges: [FileRange(file: shown.ram.file, offset: 32 * 4096, count: 8 * 4096)]
    ).get()
    #expect(shown.store.check(other).isIntact)
  }

  @Test(
    "A poisoned page costs the picture, not the process",
    .enabled(if: geteuid() == 0, "needs root"), arguments: ["direct"])
  func poisonedUnderTheDaemon(_ scanout: String) throws {
    let pinhole = try PinholeProcess(["--scanout", scanout])
    func guest() throws -> (driver: GPUDriver, buffer: Framebuffer) {
      let driver = try GPUDriver(
        try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
      let buffer = try Framebuffer(
        driver, resource: 1, width: 320, height: 240, kind: .blob)
      return (driver, buffer)
    }
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    do {
      let (driver, buffer) = try guest()
      buffer.draw(TestPicture.smpte.render(width: 320, height: 240))
      try buffer.show()
      for command in buffer.flushCommands() { try driver.send(command) }
      try watcher.follow(driver)
      try #require(poison(driver.ram.pointer(buffer.pages.addresses[5])))
      // The guest does not know. Whether it is answered or loses its GPU is told by the log.
      do {
        for command in buffer.flushCommands() { try driver.send(command) }
        try watcher.follow(driver)
      } catch let error as GuestError { print("MADV_HWPOISON, \(scanout): the guest: \(error)") }
    }
    #expect(pinhole.child.status == nil, "\(pinhole.log)")
    print("MADV_HWPOISON, \(scanout): \(pinhole.log)")
    // The next guest gets what it draws.
    let (driver, buffer) = try guest()
    buffer.draw(TestPicture.gradient.render(width: 320, height: 240))
    try buffer.show()
    for command in buffer.flushCommands() { try driver.send(command) }
    try watcher.follow(driver)
    #expect(try watcher.bytes() == driver.ram.read(buffer.pages, count: 320 * 240 * 4))
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
