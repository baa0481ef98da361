import FakeGuest
import GuestMemory
import Linux
import Testing

@Suite(
  "How the kernel watches the witness", .serialized,
  .enabled(if: WitnessKeeper.isUsable, "needs userfaultfd"))
struct WitnessModeTests {
  @Test("Only exported pages report holes, and only to faults", arguments: Detector.allCases)
  func modes(_ detector: Detector) throws {
    let watch = try Watch(detector, pages: 64)
    let (base, size) = (watch.witness.base, watch.ram.file.size)
    let exported = try mappingFlags(base, size)
    #expect(!exported.isEmpty)
    #expect(exported.allSatisfy { $0.contains("ui") })
    #expect(exported.contains { $0.contains("um") } == (detector == .faults))
    watch.witness.unexport(watch.pages)
    let rest = try mappingFlags(base, size)
    #expect(rest.allSatisfy { $0.contains("ui") && !$0.contains("um") }, "\(rest)")
  }

  @Test("What somebody else exports stays watched")
  func overlapping() throws {
    let watch = try Watch(.faults, pages: 64)
    let some = try watch.witness.pages([watch.ram.span(8, 8)])
    try watch.witness.export(some)
    watch.witness.unexport(watch.pages)
    let now = try mappingFlags(watch.witness.base, watch.ram.file.size)
    #expect(now.filter { $0.contains("um") }.count == 1)
    #expect(now.allSatisfy { $0.contains("ui") })
    try watch.ram.puncher.punch(watch.ram.span(9))
    #expect(try watch.witness.missing(in: some) == 1)
  }
}

/// The flags of each mapping in a range of addresses, from /proc/self/smaps: `um` reports
/// faults on holes, `ui` those on pages that the file has.
func mappingFlags(_ base: UnsafeMutableRawPointer, _ count: UInt64) throws -> [Set<String>] {
  let start = UInt(bitPattern: base)
  let text = String(decoding: try WholeFile.read("/proc/self/smaps"), as: UTF8.self)
  var flags: [Set<String>] = []
  var isInside = false
  for line in text.split(separator: "\n") {
    let words = line.split(separator: " ").map(String.init)
    if let range = words.first, range.contains("-"), !range.hasSuffix(":") {
      let from = UInt(range.prefix { $0 != "-" }, radix: 16) ?? 0
      isInside = from >= start && from < start + UInt(count)
    } else if isInside, words.first == "VmFlags:" {
      flags.append(Set(words.dropFirst()))
    }
  }
  return flags
}
