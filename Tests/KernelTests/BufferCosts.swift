import Buffers
import Glibc
import GuestMemory
import Linux
import Testing

/// The least of many runs in microseconds.
private func cost(_ runs: Int = 50, _ body: () throws -> Void) rethrows -> Double {
  var least = UInt64.max
  for _ in 0..<runs {
    let start = Clock.now
    try body()
    least = min(least, Clock.now - start)
  }
  return Double(least) / 1000
}

extension Watch {
  fileprivate func expectQuiet(_ pages: PageSpans) throws {
    let gone = try witness.missing(in: pages)
    #expect(gone == 0)
  }
}

/// Prints what the parts cost; nothing is asserted.
@Suite("Costs", .serialized, .enabled(if: getenv("PINHOLE_COSTS") != nil, "set PINHOLE_COSTS"))
struct CostTests {
  @Test("A check of 8 MiB", arguments: Detector.allCases)
  func check(_ detector: Detector) throws {
    let whole = try Watch(detector, pages: 2048)
    let one = try cost { try whole.expectQuiet(whole.pages) }
    let scattered = try Watch(detector, pages: 4096)
    let pages = try scattered.witness.pages((0..<2048).map { scattered.ram.span($0 * 2) })
    let many = try cost { try scattered.expectQuiet(pages) }
    let arm = try cost(5) {
      let fresh = try WitnessKeeper(detector: detector).witness(for: whole.ram.file)
      let all = try fresh.pages([whole.ram.span(0, 2048)])
      try fresh.arm(all) { _ in }
    }
    print(
      "\(detector): check \(one) us in one run, \(many) us in 2048 runs; "
        + "map and arm for the first time \(arm) us")
  }

  @Test("A check of 1 GiB", arguments: Detector.allCases)
  func checkMuch(_ detector: Detector) throws {
    let whole = try Watch(detector, pages: 1 << 18)
    print("\(detector): check of 1 GiB \(try cost(10) { try whole.expectQuiet(whole.pages) }) us")
  }

  @Test(
    "A rebuild of 8 MiB", .enabled(if: udmabufProblem == nil, "needs /dev/udmabuf"),
    arguments: Detector.allCases)
  func rebuild(_ detector: Detector) throws {
    for runs in [1, 1024] as [UInt64] {
      let pieces = (0..<runs).map { (page: $0 * (4096 / runs), count: 2048 / runs) }
      let shown = try ShownPicture(detector, pages: 4096, runs: pieces)
      let device = try UdmabufDevice.open()
      let bare = try cost { _ = try device.create(shown.ranges) }
      let make = try cost { shown.store.drop(try shown.make()) }
      let buffer = try shown.make()
      let check = cost { #expect(shown.store.check(buffer).isIntact) }
      var punch = 0.0
      var rebuild = Double.infinity
      for _ in 0..<30 {
        punch = try cost(1) { try shown.ram.puncher.punch(shown.ram.span(pieces[0].page)) }
        rebuild = min(rebuild, cost(1) { #expect(shown.store.check(buffer).replacement != nil) })
      }
      print(
        "\(detector), \(runs) runs: bare create and close \(bare) us, make and release \(make) us,"
          + " check \(check) us, check and rebuild \(rebuild) us (a punch took \(punch) us)")
    }
  }
}
