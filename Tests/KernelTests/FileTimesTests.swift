import Glibc
import GuestMemory
import Linux
import Testing

@testable import Buffers

/// The release of the running kernel as major * 1000 + minor.
private let kernel: Int = {
  var names = utsname()
  uname(&names)
  let text = withUnsafeBytes(of: &names.release) {
    String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
  }
  let numbers = text.split(whereSeparator: { !$0.isNumber }).prefix(2).compactMap { Int($0) }
  return numbers.count == 2 ? numbers[0] * 1000 + numbers[1] : 0
}()

@Suite("What the times of a file prove")
struct FileTimesTests {
  @Test("Linux 6.13 and later change them at every discard")
  func exact() {
    #expect(WitnessKeeper.timesAreExact == (kernel >= 6013))
  }

  @Test(
    "Forty thousand discards, back to back",
    .enabled(if: WitnessKeeper.timesAreExact && WitnessKeeper.isUsable, "needs Linux 6.13"))
  func never() throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let watch = try Watch(.scan, pages: 64)
    var unseen = 0
    for _ in 0..<40_000 {
      let page = UInt64.random(in: 0..<64, using: &random)
      if random.next() & 3 == 0 { watch.ram.write(watch.ram.span(page), 1) }
      let before = try #require(FileTimes(of: watch.ram.file.fd.raw))
      try MemFD.punchHole(watch.ram.file.fd.raw, offset: page * 4096, count: 4096)
      if FileTimes(of: watch.ram.file.fd.raw) == before { unseen += 1 }
    }
    #expect(unseen == 0)
  }

  @Test(
    "Another process discards between looks", .enabled(if: WitnessKeeper.timesAreExact),
    .enabled(if: WitnessKeeper.isUsable))
  func agrees() throws {
    var random = SeededNumbers()
    print("seed \(random.seed)")
    let watch = try Watch(.scan, pages: 256)
    var unchanged = 0
    for _ in 0..<2000 {
      let before = try #require(FileTimes(of: watch.ram.file.fd.raw))
      #expect(try watch.missing() == 0)
      if random.next() & 1 == 0 {
        let page = UInt64.random(in: 0..<256, using: &random)
        try watch.ram.puncher.punch(watch.ram.span(page))
        if random.next() & 1 == 0 { try watch.ram.puncher.fill(watch.ram.span(page), 2) }
      }
      if FileTimes(of: watch.ram.file.fd.raw) == before {
        unchanged += 1
        #expect(try watch.missing() == 0, "an unchanged file with discarded pages")
      }
      try watch.ram.file.populate(offset: 0, count: watch.ram.file.size)
      _ = try watch.rearm()
    }
    #expect(unchanged > 500, "a file at rest must look so")
  }

  @Test(
    "A buffer at rest is not scanned, and a discard is found all the same",
    .enabled(if: WitnessKeeper.timesAreExact && bufferProblem == nil, "needs Linux 6.13"),
    arguments: Detector.allCases, [true, false])
  func gate(_ detector: Detector, _ isUsed: Bool) throws {
    let shown = try ShownPicture(detector, pages: 64, runs: [(0, 8), (32, 8)])
    shown.store.usesGate = isUsed
    let buffer = try shown.make()
    for round in 0..<50 {
      for _ in 0..<10 { #expect(shown.store.check(buffer).isIntact) }
      try shown.ram.puncher.punch(shown.ram.span(33))
      if round % 2 == 0 { shown.ram.write(shown.ram.span(33), UInt8(round)) }
      #expect(shown.store.check(buffer).replacement != nil)
      try shown.expectGuestPixels(buffer)
    }
    #expect(shown.store.counters.checks == 550)
    #expect(isUsed ? shown.store.counters.gated >= 400 : shown.store.counters.gated == 0)
  }

  @Test(
    "The times that count are those from before the look", .enabled(if: bufferProblem == nil),
    .enabled(if: WitnessKeeper.timesAreExact, "needs Linux 6.13"))
  func fromBefore() throws {
    let shown = try ShownPicture(.scan, pages: 64, runs: [(0, 4)])
    let buffer = try shown.make()
    buffer.readTimes()
    buffer.keepTimes()
    #expect(buffer.timesAreKept)
    buffer.readTimes()
    try shown.ram.puncher.punch(shown.ram.span(1))
    buffer.keepTimes()
    #expect(!buffer.timesAreKept, "it was discarded after its page was found")
  }

  @Test(
    "Discards while the pages are looked at are not taken for older ones",
    .enabled(if: WitnessKeeper.timesAreExact && bufferProblem == nil, "needs Linux 6.13"))
  func betweenTheLooks() throws {
    let shown = try ShownPicture(.scan, pages: 64, runs: [(0, 4)])
    let buffer = try shown.make()
    let file = shown.ram.file.fd
    let go = Locked(0)
    let done = Locked(0)
    let thread = try Linux.Thread("discards") {
      for round in 1...3000 {
        while go.withLock({ $0 }) < round { sched_yield() }
        for page in 0..<24 {
          _ = try? MemFD.punchHole(file.raw, offset: UInt64(page % 4) * 4096, count: 4096)
        }
        done.withLock { $0 = round }
      }
    }
    var stale = 0
    var bytes: UInt8 = 0
    for round in 1...3000 {
      go.withLock { $0 = round }
      while done.withLock({ $0 }) < round, buffer.current != nil { _ = shown.store.check(buffer) }
      while done.withLock({ $0 }) < round { sched_yield() }
      if buffer.current == nil { continue }
      // The flush, and what the guest draws after it: both must be seen.
      _ = shown.store.check(buffer)
      guard let current = buffer.current else { continue }
      bytes &+= 1
      shown.ram.write(shown.ram.span(0, 4), bytes)
      if try shown.firstDifference(current.fd) != nil { stale += 1 }
    }
    _ = consume thread
    #expect(stale == 0)
    #expect(shown.store.counters.rebuilds > 100 || buffer.current == nil)
  }
}
