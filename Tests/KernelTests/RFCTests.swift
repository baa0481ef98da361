import Buffers
import Glibc
import GuestMemory
import Linux
import Testing

/// The scenarios of the kernel's unmerged selftest "Replace pages when there is
/// FALLOC_FL_PUNCH_HOLE in memfd": four runs of four pages of 4 KiB spread over a memfd of 1,024
/// pages, whose first third is punched and which is then rewritten whole.
@Suite(
  "The scenarios of the kernel RFC", .serialized,
  .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct RFCTests {
  @Test("4 KiB pages", arguments: Detector.allCases)
  func basePages(_ detector: Detector) throws {
    try scenario(detector, pages: 1024, hugePageSize: 0)
  }

  @Test(
    "2 MiB pages", .enabled(if: freeHugePages >= 56, "needs 56 free huge pages"),
    arguments: Detector.allCases)
  func hugePages(_ detector: Detector) throws {
    // 2 GiB where the machine has them; tests that run beside this one have some, too. Tests/run
    // has a VM that is made for all of them, and says so.
    let pages: UInt64 = freeHugePages >= 1024 ? 1024 : freeHugePages >= 120 ? 64 : 32
    if let wanted = getenv("PINHOLE_HUGE_PAGES") {
      try #require(pages == UInt64(String(cString: wanted)), "\(freeHugePages) are free")
    }
    print("the sixth scenario, \(detector): \(pages) pages of 2 MiB")
    try scenario(detector, pages: pages, hugePageSize: 2 << 20)
  }

  private func scenario(_ detector: Detector, pages: UInt64, hugePageSize: UInt64) throws {
    let quarter = pages / 4 * max(hugePageSize, 4096)
    let pieces = (0..<4).map { (offset: UInt64($0) * quarter, count: UInt64(4 * 4096)) }
    let shown = try ShownPicture(
      detector, pages: pages, pieces: pieces, hugePageSize: hugePageSize)
    let buffer = try shown.make()
    try shown.expectGuestPixels(buffer)
    let once = try #require(buffer.current)
    try shown.ram.puncher.punch(shown.ram.span(0, pages / 3))
    try shown.ram.puncher.fill(shown.ram.span(0, pages), UInt8(ascii: "b"))
    let (old, new) = try #require(shown.store.check(buffer).replacement)
    #expect(old === once)
    #expect(try shown.firstDifference(new.fd) == nil)
    let all = try shownBytes(new.fd.raw, count: Int(new.size))
    #expect(all.allSatisfy { $0 == UInt8(ascii: "b") })
    #expect(try shown.firstDifference(once.fd) == 0, "made once, it is stale")
    shown.store.drop(buffer)
  }
}
