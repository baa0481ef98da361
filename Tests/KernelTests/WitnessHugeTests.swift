import GuestMemory
import Linux
import Testing

@Suite(
  "What the witness sees of huge pages", .serialized,
  .enabled(
    if: WitnessKeeper.isUsable && freeHugePages >= 16,
    "needs userfaultfd and 16 free huge pages"))
struct WitnessHugeTests {
  static let hugePage: UInt64 = 2 << 20

  @Test("Discards with and without a refill", arguments: Detector.allCases)
  func punch(_ detector: Detector) throws {
    let watch = try Watch(detector, pages: 8, hugePageSize: Self.hugePage)
    #expect(try watch.missing() == 0)
    try watch.ram.puncher.punch(watch.ram.span(2))
    try watch.ram.puncher.punch(watch.ram.span(5, 2))
    watch.ram.write(watch.ram.span(5), 1)
    #expect(try watch.missing(watch.ram.span(3, 2)) == 0)
    #expect(try watch.missing() == 3)
    try watch.ram.file.populate(offset: 0, count: watch.ram.file.size)
    #expect(try watch.rearm() == [2, 5, 6])
    #expect(try watch.missing() == 0)
    #expect(watch.ram.bytes[Int(2 * Self.hugePage)] == 0)
  }

  @Test("A part of a huge page is zeroed in place", arguments: Detector.allCases)
  func part(_ detector: Detector) throws {
    let watch = try Watch(detector, pages: 4, hugePageSize: Self.hugePage)
    try watch.ram.puncher.punch(PageSpan(offset: Self.hugePage + 4096, count: 4096))
    #expect(watch.ram.bytes[Int(Self.hugePage) + 4096] == 0)
    #expect(watch.ram.bytes[Int(Self.hugePage)] == UInt8(ascii: "a"))
    // Whether this counts as a discard is the kernel's choice; a needless rebuild is harmless.
    #expect(try watch.missing() <= 1)
  }
}
