import Testing

@testable import GuestMemory

private func span(_ page: UInt64, _ count: UInt64 = 1) -> PageSpan {
  PageSpan(offset: page * 4096, count: count * 4096)
}

@Suite("Sets of pages")
struct PageSpansTests {
  @Test("Runs in any order become ascending ones that do not touch")
  func merges() {
    let pages = PageSpans(
      [span(9), span(1, 2), span(3), span(2, 3), span(20, 0), span(6)], pageSize: 4096)
    #expect(pages.runs == [span(1, 4), span(6), span(9)])
    #expect(pages.bytes == 6 * 4096)
  }

  @Test("Bytes are extended to whole pages")
  func aligns() {
    let pages = PageSpans(
      [PageSpan(offset: 100, count: 1), PageSpan(offset: 4095, count: 2)], pageSize: 4096)
    #expect(pages.runs == [span(0, 2)])
    let huge = PageSpans([span(3), span(600)], pageSize: 2 << 20)
    #expect(huge.runs == [PageSpan(offset: 0, count: 4 << 20)])
  }

  @Test("Ends that wrap around stay in order")
  func wraps() {
    let pages = PageSpans([PageSpan(offset: .max - 10, count: 100)], pageSize: 4096)
    #expect(pages.runs.count == 1)
    #expect(pages.runs[0].offset == UInt64.max - 4095)
  }

  @Test("Overlaps are found at every edge")
  func overlaps() {
    let pages = PageSpans([span(2, 2), span(10)], pageSize: 4096)
    for page in [2, 3, 10] as [UInt64] { #expect(pages.overlaps(span(page))) }
    for page in [0, 1, 4, 9, 11] as [UInt64] { #expect(!pages.overlaps(span(page))) }
    #expect(pages.overlaps(span(0, 100)))
    #expect(!pages.overlaps(span(4, 6)))
  }

  @Test("Clipping keeps the parts that belong to the set")
  func clip() {
    let pages = PageSpans([span(2, 2), span(10), span(12, 4)], pageSize: 4096)
    var parts: [PageSpan] = []
    var next = pages.clip(span(3, 10)) { parts.append($0) }
    #expect(parts == [span(3), span(10), span(12)])
    parts = []
    next = pages.clip(span(13, 2), from: next) { parts.append($0) }
    next = pages.clip(span(15, 2), from: next) { parts.append($0) }
    #expect(parts == [span(13, 2), span(15)])
    parts = []
    next = pages.clip(span(4, 6)) { parts.append($0) }
    #expect(parts.isEmpty)
    #expect(next == 1)
  }

  @Test("Subtracting leaves what nobody else has")
  func subtract() {
    let pages = PageSpans([span(0, 10), span(20, 2)], pageSize: 4096)
    let one = PageSpans([span(2, 3)], pageSize: 4096)
    let two = PageSpans([span(4, 2), span(19, 2)], pageSize: 4096)
    #expect(pages.subtracting([one, two]) == [span(0, 2), span(6, 4), span(21)])
    #expect(pages.subtracting([]) == pages.runs)
    #expect(pages.subtracting([pages]).isEmpty)
  }

  @Test("Near runs share a scan, far ones do not")
  func groups() {
    let pages = PageSpans([span(0), span(2), span(257), span(1000, 5)], pageSize: 4096)
    #expect(pages.groups.map(\.span) == [span(0, 258), span(1000, 5)])
    #expect(pages.groups.map(\.runs) == [0..<3, 3..<4])
  }
}

@Suite("Marks of the listener")
struct WitnessMarksTests {
  private func marks(_ pages: UInt64) throws -> WitnessMarks {
    try #require(WitnessMarks(base: 1 << 40, size: pages * 4096, pageSize: 4096))
  }

  @Test("Marked pages are counted and taken once")
  func takes() throws {
    let marks = try marks(300)
    #expect(marks.isEmpty)
    marks.mark(span(5))
    marks.mark(span(5))
    marks.mark(span(62, 70))
    marks.mark(span(299))
    #expect(marks.count(in: span(0, 300)) == 72)
    #expect(marks.count(in: span(63, 2)) == 2)
    var taken: Set<UInt64> = []
    marks.take(in: span(0, 130)) { run in
      for page in run.offset / 4096..<run.end / 4096 { taken.insert(page) }
    }
    #expect(taken == Set(62..<130).union([5]))
    #expect(!marks.isEmpty)
    #expect(marks.count(in: span(0, 300)) == 3)
    marks.take(in: span(0, 300)) { _ in }
    #expect(marks.isEmpty)
  }

  @Test("What is outside is ignored")
  func outside() throws {
    let marks = try marks(10)
    marks.mark(span(10, 5))
    marks.mark(PageSpan(offset: 0, count: 0))
    #expect(marks.isEmpty)
    marks.mark(span(8, 5))
    #expect(marks.count(in: span(0, 10)) == 2)
    marks.mark(PageSpan(offset: 0, count: .max))
    #expect(marks.count(in: span(0, 10)) == 10)
    #expect(marks.contains(address: 1 << 40))
    #expect(!marks.contains(address: (1 << 40) + 10 * 4096))
    #expect(!marks.contains(address: (1 << 40) - 1))
  }

  @Test("A word full of marks is one run")
  func fullWord() throws {
    let marks = try marks(128)
    marks.mark(span(0, 128))
    var runs: [PageSpan] = []
    marks.take(in: span(0, 128)) { runs.append($0) }
    #expect(runs == [span(0, 64), span(64, 64)])
  }
}
