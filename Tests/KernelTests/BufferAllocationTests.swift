import AllocationCounter
import Buffers
import GuestMemory
import Testing

/// Heap allocations of this thread in `body`.
private func allocations(_ body: () -> Void) -> UInt64 {
  let before = allocation_count()
  body()
  return allocation_count() - before
}

/// Without optimization closures and iterators are allocated.
private let isOptimized: Bool = {
  #if DEBUG
    return false
  #else
    return true
  #endif
}()

@Suite(
  "Checks of intact pages allocate nothing",
  .enabled(
    if: WitnessKeeper.isUsable && isOptimized && allocation_counter_works(),
    "needs userfaultfd, and a release build without a sanitizer"))
struct BufferAllocationTests {
  @Test("The counter counts")
  func counts() {
    var numbers: [Int] = []
    #expect(allocations { numbers.append(1) } > 0)
    #expect(numbers == [1])
  }

  @Test("The witness", arguments: Detector.allCases)
  func witness(_ detector: Detector) throws {
    let watch = try Watch(detector, pages: 4096)
    let scattered = try watch.witness.pages((0..<1000).map { watch.ram.span($0 * 3) })
    try watch.witness.export(scattered)
    for pages in [watch.pages, scattered] {
      var gone = -1
      let count = allocations {
        for _ in 0..<100 { gone = (try? watch.witness.missing(in: pages)) ?? -1 }
      }
      #expect(gone == 0)
      #expect(count == 0)
    }
  }

  @Test(
    "The store", .enabled(if: bufferProblem == nil, "needs userfaultfd"),
    arguments: Detector.allCases)
  func store(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 1024, runs: BufferTests.runs)
    let buffer = try shown.make()
    let another = try shown.make()
    var changes = 0
    let count = allocations {
      for _ in 0..<100 {
        if !shown.store.check(buffer).isIntact { changes += 1 }
      }
    }
    #expect(count == 0)
    #expect(changes == 0)
    #expect(another.generation == 1)
  }
}
