import GuestMemory
import Linux
import Pixels
import Testing

@testable import Buffers

private let qemuSeals: Seals = [.shrink, .grow, .seal]

private func file(pages: Int = 64, seals: Seals = qemuSeals) throws -> GuestFile {
  try GuestFile(MemFD.create("ram", size: pages * 4096, seals: seals))
}

private func layout(pages: UInt32, offset: UInt64 = 0) -> PixelLayout {
  PixelLayout(width: 1024, height: pages, stride: 4096, offset: offset, fourcc: .xrgb8888)
}

/// The reason of a plan, nil if there is none.
private func reason(
  _ layout: PixelLayout, _ ranges: [FileRange], _ limits: UdmabufDevice.Limits = .usual
) -> CopyReason? {
  do throws(CopyReason) {
    _ = try BufferPlan(layout: layout, ranges: ranges, limits: limits)
    return nil
  } catch { return error }
}

@Suite("What can be a udmabuf")
struct BufferPlanTests {
  @Test("Pieces that continue each other are one item")
  func merges() throws {
    let one = try file()
    let two = try file()
    let ranges = [
      FileRange(file: one, offset: 0, count: 4096),
      FileRange(file: one, offset: 4096, count: 8192),
      FileRange(file: two, offset: 12288, count: 4096),
      FileRange(file: one, offset: 12288, count: 4096),
      FileRange(file: one, offset: 0, count: 4096),
    ]
    let plan = try BufferPlan(layout: layout(pages: 6), ranges: ranges, limits: .usual)
    #expect(plan.items.map(\.offset) == [0, 12288, 12288, 0])
    #expect(plan.items.map(\.count) == [12288, 4096, 4096, 4096])
    #expect(plan.bytes == 6 * 4096)
  }

  @Test("Pieces inside a page count as one when they join to pages")
  func joinsHalves() throws {
    let file = try file()
    let halves = [
      FileRange(file: file, offset: 4096, count: 1000),
      FileRange(file: file, offset: 5096, count: 3096),
    ]
    #expect(reason(layout(pages: 1), halves) == nil)
  }

  @Test("Alignment")
  func alignment() throws {
    let file = try file()
    func range(_ offset: UInt64, _ count: UInt64) -> FileRange {
      FileRange(file: file, offset: offset, count: count)
    }
    guard case .unalignedEntry(100) = reason(layout(pages: 1), [range(100, 4096)]) else {
      Issue.record("entry")
      return
    }
    guard case .unalignedLength(5000) = reason(layout(pages: 1), [range(0, 5000)]) else {
      Issue.record("length")
      return
    }
    let late = layout(pages: 1, offset: 4096)
    guard case .unalignedStart(4096) = reason(late, [range(0, 8192)]) else {
      Issue.record("start")
      return
    }
    #expect(reason(layout(pages: 1, offset: 64), [range(0, 8192)]) == nil)
  }

  @Test("A picture larger than its memory")
  func short() throws {
    let file = try file()
    let ranges = [FileRange(file: file, offset: 0, count: 4096)]
    #expect(reason(layout(pages: 2), ranges)?.kind == .tooShort)
    #expect(reason(layout(pages: 1, offset: 1), ranges)?.kind == .tooShort)
    #expect(reason(layout(pages: 1), [])?.kind == .tooShort)
    let vast = PixelLayout(
      width: 1, height: .max, stride: .max, offset: 0, fourcc: .xrgb8888)
    #expect(reason(vast, ranges)?.kind == .tooShort)
  }

  @Test("The limits of the device")
  func limits() throws {
    let file = try file()
    let two = [0, 2].map { FileRange(file: file, offset: $0 * 4096, count: 4096) }
    let tight = UdmabufDevice.Limits(entries: 1, bytes: 1 << 20)
    guard case .tooManyEntries(2, limit: 1) = reason(layout(pages: 2), two, tight) else {
      Issue.record("entries")
      return
    }
    let small = UdmabufDevice.Limits(entries: 8, bytes: 4096)
    guard case .tooLarge(bytes: 8192, limit: 4096) = reason(layout(pages: 2), two, small) else {
      Issue.record("bytes")
      return
    }
    #expect(reason(layout(pages: 2), two, UdmabufDevice.Limits(entries: 2, bytes: 8192)) == nil)
  }

  @Test("The seals of the memory")
  func seals() throws {
    func kind(_ seals: Seals) throws -> CopyReason.Kind? {
      let file = try file(seals: seals)
      return reason(layout(pages: 1), [FileRange(file: file, offset: 0, count: 4096)])?.kind
    }
    #expect(try kind([.shrink]) == nil)
    #expect(try kind(qemuSeals) == nil)
    #expect(try kind([.grow]) == .noShrinkSeal)
    #expect(try kind([]) == .noShrinkSeal)
    #expect(throws: Errno.self, "a write seal makes it unusable as guest RAM") {
      try file(seals: [.shrink, .write])
    }
  }

  @Test("Every reason has a name, a place in the counters, and advice")
  func reasons() {
    let e = Errno(13, "open")
    let all: [CopyReason] = [
      .noDevice, .noAccess(e), .witnessUnavailable(.noUserfaultfd(e)), .notMemfd, .noShrinkSeal,
      .writeSealed, .unalignedStart(offset: 1), .unalignedEntry(offset: 1),
      .unalignedLength(count: 1), .tooShort(bytes: 1, needed: 2), .tooManyEntries(2, limit: 1),
      .tooLarge(bytes: 2, limit: 1), .overPinBudget(bytes: 1, pinned: 1, budget: 1),
      .notLetGo(1), .discardsOutran, .failed(e),
    ]
    #expect(all.map(\.kind) == CopyReason.Kind.allCases)
    #expect(Set(all.map(\.description)).count == all.count)
    var counters = BufferCounters()
    for reason in all {
      let first = counters.count(reason.kind)
      let second = counters.count(reason.kind)
      #expect(first && !second)
      #expect(counters.fallbacks(reason.kind) == 2)
    }
    #expect(CopyReason.Kind.tooManyEntries.name == "too-many-entries")
  }

  @Test("Without a device or a witness each picture is copied, and counted")
  func fallback() throws {
    let ranges = [FileRange(file: try file(), offset: 0, count: 4096)]
    let without = BufferStore(device: .failure(.noDevice), keeper: .failure(.noShrinkSeal))
    for _ in 0..<3 {
      guard case .failure(.noDevice) = without.make(layout: layout(pages: 1), ranges: ranges)
      else {
        Issue.record("made a buffer out of nothing")
        return
      }
    }
    #expect(without.counters.fallbacks(.noDevice) == 3)
    #expect(without.counters.pins == 0)
    #expect(without.reports.isEmpty)
    let device = UdmabufDevice(adopting: try OwnedFD.open("/dev/null", 2))
    let blind = BufferStore(device: .success(device), keeper: .failure(.noShrinkSeal))
    guard case .failure(.witnessUnavailable) = blind.make(layout: layout(pages: 1), ranges: ranges)
    else {
      Issue.record("made a buffer that nobody watches")
      return
    }
  }

  @Test("A path that is no udmabuf")
  func devices() throws {
    let absent = #expect(throws: CopyReason.self) { try UdmabufDevice.open("/nonexistent/udmabuf") }
    #expect(absent?.kind == .noDevice)
    let other = #expect(throws: CopyReason.self) { try UdmabufDevice.open("/dev/null") }
    #expect(other?.kind == .noAccess)
    let null = UdmabufDevice(adopting: try OwnedFD.open("/dev/null", 2))
    let range = FileRange(file: try file(), offset: 0, count: 4096)
    #expect(throws: Errno.self) { _ = try null.create([range]) }
  }

  @Test("A pin ends with its last holder")
  func pins() {
    let account = PinAccount()
    var pin: Pin? = Pin(account, bytes: 4096)
    var second = pin
    #expect(account.bytes == 4096)
    pin = nil
    #expect(account.bytes == 4096)
    second = nil
    #expect(account.bytes == 0)
    #expect(account.pins == 1)
    #expect(account.unpins == 1)
    #expect(pin == nil && second == nil)
  }
}
