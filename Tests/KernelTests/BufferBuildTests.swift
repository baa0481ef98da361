import Buffers
import GuestMemory
import Linux
import Testing

@Suite(
  "Building a buffer while pages are discarded",
  .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct BufferBuildTests {
  static let steps: [BufferStore.Step] = [.fill, .arm, .create, .verify]

  @Test("At each step, once", arguments: Detector.allCases, steps)
  func once(_ detector: Detector, _ step: BufferStore.Step) throws {
    for refills in [false, true] {
      let shown = try ShownPicture(detector, pages: 64, runs: [(0, 8), (32, 8)])
      var punched = false
      shown.store.onStep = { now in
        guard now == step, !punched else { return }
        punched = true
        try? shown.ram.puncher.punch(shown.ram.span(33))
        if refills { shown.ram.write(shown.ram.span(33), UInt8(ascii: "n")) }
      }
      let buffer = try shown.make()
      #expect(punched)
      let late = step == .create || step == .verify
      #expect(shown.store.counters.retries == (late || (step == .arm && !refills) ? 1 : 0))
      shown.ram.write(shown.ram.span(0, 64), UInt8(ascii: "b"))
      #expect(shown.store.check(buffer).isIntact)
      try shown.expectGuestPixels(buffer)
      shown.store.onStep = nil
    }
  }

  @Test("At each step of a rebuild", arguments: Detector.allCases, steps)
  func rebuild(_ detector: Detector, _ step: BufferStore.Step) throws {
    let shown = try ShownPicture(detector, pages: 64, runs: [(0, 8), (32, 8)])
    let buffer = try shown.make()
    try shown.ram.puncher.punch(shown.ram.span(2))
    var punched = false
    shown.store.onStep = { now in
      guard now == step, !punched else { return }
      punched = true
      try? shown.ram.puncher.punch(shown.ram.span(7))
      shown.ram.write(shown.ram.span(7), UInt8(ascii: "n"))
    }
    #expect(shown.store.check(buffer).replacement != nil)
    #expect(punched)
    try shown.expectGuestPixels(buffer)
    shown.store.onStep = nil
  }

  @Test("A discard at every attempt ends in a copy", arguments: Detector.allCases)
  func outrun(_ detector: Detector) throws {
    let shown = try ShownPicture(detector, pages: 64, runs: [(0, 8)])
    let buffer = try shown.make()
    shown.store.onStep = { step in
      if step == .verify { try? shown.ram.puncher.punch(shown.ram.span(1)) }
    }
    try shown.ram.puncher.punch(shown.ram.span(1))
    guard case .lost(let old, .discardsOutran) = shown.store.check(buffer) else {
      Issue.record("not lost")
      return
    }
    #expect(old.generation == 1)
    #expect(buffer.state == .lost)
    #expect(buffer.current == nil)
    #expect(shown.store.reports.isEmpty)
    #expect(shown.store.counters.retries == 2)
    #expect(shown.store.counters.fallbacks(.discardsOutran) == 1)
    shown.store.onStep = nil
    let again = try shown.make()
    try shown.expectGuestPixels(again)
  }

  @Test("The pin budget holds, and a rebuild fits in it")
  func budget() throws {
    let shown = try ShownPicture(.scan, pages: 64, runs: [(0, 8)])
    shown.store.pinBudget = 8 * 4096
    let buffer = try shown.make()
    guard
      case .failure(.overPinBudget(32768, pinned: 32768, budget: 32768)) =
        shown.store.make(layout: shown.layout, ranges: shown.ranges)
    else {
      Issue.record("over budget")
      return
    }
    try shown.ram.puncher.punch(shown.ram.span(1))
    let kept = shown.store.check(buffer).replacement
    #expect(kept != nil)
    try shown.ram.puncher.punch(shown.ram.span(1))
    guard case .lost(_, .overPinBudget) = shown.store.check(buffer) else {
      Issue.record("old generations count as long as somebody holds them")
      return
    }
  }

  @Test("udmabuf's own limits are known", .enabled(if: hasUdmabuf, "needs /dev/udmabuf"))
  func limits() throws {
    let limits = UdmabufDevice.Limits.read()
    #expect(limits.entries > 0)
    let pages = UInt64(limits.entries) * 2 + 2
    let runs = (0..<UInt64(limits.entries)).map { (page: $0 * 2, count: UInt64(1)) }
    let most = try ShownPicture(.scan, pages: pages, runs: runs)
    let buffer = try most.make()
    try most.expectGuestPixels(buffer)
    try most.ram.puncher.punch(most.ram.span(runs[limits.entries / 2].page))
    #expect(most.store.check(buffer).replacement != nil)
    let more = try ShownPicture(.scan, pages: pages, runs: runs + [(page: pages - 1, count: 1)])
    guard case .failure(.tooManyEntries) = more.store.make(layout: more.layout, ranges: more.ranges)
    else {
      Issue.record("too many entries")
      return
    }
  }
}
