import Buffers
import GuestMemory
import Linux
import Testing

/// The scenarios of the kernel's unmerged selftest "Replace pages when there is
/// FALLOC_FL_PUNCH_HOLE in memfd": four runs of four pages spread over a memfd, whose first third
/// is punched and then rewritten whole.
@Suite(
  "The scenarios of the kernel RFC", .serialized,
  .enabled(if: udmabufProblem == nil, "needs /dev/udmabuf and userfaultfd"))
struct RFCTests {
  @Test("4 KiB pages", arguments: Detector.allCases)
  func basePages(_ detector: Detector) throws {
    try scenario(detector, pages: 1024, hugePageSize: 0)
  }

  @Test(
    "2 MiB pages", .enabled(if: freeHugePages >= 56, "needs 56 free huge pages"),
    arguments: Detector.allCases)
  func hugePages(_ detector: Detector) throws {
    try scenario(detector, pages: freeHugePages >= 120 ? 64 : 32, hugePageSize: 2 << 20)
  }

  private func scenario(_ detector: Detector, pages: UInt64, hugePageSize: UInt64) throws {
    let runs = (0..<4).map { (page: UInt64($0) * (pages / 4), count: UInt64(4)) }
    let shown = try ShownPicture(detector, pages: pages, runs: runs, hugePageSize: hugePageSize)
    let buffer = try shown.make()
    try shown.expectGuestPixels(buffer)
    let once = try #require(buffer.current)
    try shown.ram.puncher.punch(shown.ram.span(0, pages / 3))
    try shown.ram.puncher.fill(shown.ram.span(0, pages), UInt8(ascii: "b"))
    let (old, new) = try #require(shown.store.check(buffer).replacement)
    #expect(old === once)
    #expect(try shown.firstDifference(new.fd) == nil)
    let all = try DmaBufView(new.fd).read { $0.allSatisfy { $0 == UInt8(ascii: "b") } }
    #expect(all)
    #expect(try shown.firstDifference(once.fd) == 0, "made once, it is stale")
    shown.store.release(buffer)
  }
}
