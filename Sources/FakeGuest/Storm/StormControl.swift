import Glibc
import Linux
import Synchronization

/// What the guest of a storm, its consumers and the process that discards pages share: a memfd of
/// atomic numbers, so that everybody can tell which pages are being discarded at this moment.
package final class StormControl: @unchecked Sendable {
  package typealias Number = UnsafeMutablePointer<Atomic<UInt64>>

  /// The single numbers; the page counters follow.
  private enum Slot: Int {
    case stop, bursts, pages, refills, failure, frames, frameTime
  }

  private static let slots = 64
  /// The file behind it.
  package let fd: SharedFD
  /// Pages that may be discarded, numbered from 0.
  package let pages: Int
  private let mapping: Mapping
  private let numbers: Number

  /// Makes counters for so many pages.
  package convenience init(pages: Int) throws(GuestError) {
    let fd = try doing("the storm's control") { () throws(Errno) in
      try MemFD.create("storm", size: (Self.slots + 2 * pages) * 8)
    }
    try self.init(adopting: fd)
  }

  /// Maps what another process made.
  package init(adopting file: consuming OwnedFD) throws(GuestError) {
    let fd = SharedFD(file)
    let facts = try doing("the storm's control") { () throws(Errno) in try FileFacts(of: fd.raw) }
    let count = Int(clamping: facts.size)
    mapping = try doing("the storm's control") { () throws(Errno) in
      try Mapping(fd: fd.raw, offset: 0, count: count, writable: true)
    }
    numbers = mapping.base.bindMemory(to: Atomic<UInt64>.self, capacity: count / 8)
    pages = (count / 8 - Self.slots) / 2
    self.fd = fd
  }

  private func number(_ slot: Slot) -> Number { numbers + slot.rawValue }

  private func load(_ slot: Slot) -> UInt64 {
    number(slot).pointee.load(ordering: .sequentiallyConsistent)
  }

  /// The storm is over.
  package var isStopped: Bool { load(.stop) != 0 }
  package func stop() { number(.stop).pointee.store(1, ordering: .sequentiallyConsistent) }

  /// Runs of pages that were discarded.
  package var bursts: UInt64 { load(.bursts) }
  /// Pages in them.
  package var discarded: UInt64 { load(.pages) }
  /// The last number that a refill wrote.
  package var refills: UInt64 { load(.refills) }
  /// The errno that ended the other process' work, 0 if none did.
  package var failure: UInt64 { load(.failure) }
  package func fail(_ code: CInt) {
    number(.failure).pointee.store(UInt64(clamping: code), ordering: .sequentiallyConsistent)
  }

  /// Frames that the guest has finished.
  package var frames: UInt64 { load(.frames) }
  /// Microseconds that one of them takes.
  package var frameTime: UInt64 { load(.frameTime) }
  package func frameDone(microseconds: UInt64) {
    number(.frames).pointee.add(1, ordering: .sequentiallyConsistent)
    let mean = frameTime == 0 ? microseconds : (frameTime * 7 + microseconds) / 8
    number(.frameTime).pointee.store(mean, ordering: .sequentiallyConsistent)
  }

  package func burstDone(pages: UInt64) {
    number(.bursts).pointee.add(1, ordering: .sequentiallyConsistent)
    number(.pages).pointee.add(pages, ordering: .sequentiallyConsistent)
  }

  package func nextRefill() -> UInt64 {
    number(.refills).pointee.add(1, ordering: .sequentiallyConsistent).newValue
  }

  /// How many discards of a page have begun; a discard has begun before the page can vanish.
  package func begun(_ page: Int) -> UInt64 {
    numbers[Self.slots + page].load(ordering: .sequentiallyConsistent)
  }

  /// How many discards of a page are over, refill and all.
  package func ended(_ page: Int) -> UInt64 {
    numbers[Self.slots + pages + page].load(ordering: .sequentiallyConsistent)
  }

  package func begin(_ page: Int) {
    numbers[Self.slots + page].add(1, ordering: .sequentiallyConsistent)
  }

  package func end(_ page: Int) {
    numbers[Self.slots + pages + page].add(1, ordering: .sequentiallyConsistent)
  }
}

/// What a page of a storm holds: words that tell who wrote them, and when.
package enum StormStamp {
  private static let step: UInt64 = 0x9e37_79b9_7f4a_7c15
  private static let refillBit: UInt64 = 1 << 40

  /// Who wrote a word.
  package enum Writer: Equatable {
    /// Nobody: the page is new.
    case zero
    /// The guest, drawing a frame.
    case guest(UInt64)
    /// The process that discards, filling a hole again.
    case refill(UInt64)
    /// None of them.
    case stray
  }

  /// The tag of a refill.
  package static func refill(_ number: UInt64) -> UInt64 { refillBit | number }

  /// Fills a page of 4 KiB.
  @inline(__always)
  package static func write(_ page: UnsafeMutableRawPointer, tag: UInt64, page number: Int) {
    let words = page.assumingMemoryBound(to: UInt64.self)
    var mix = UInt64(truncatingIfNeeded: number) &* 512 &* step
    for index in 0..<512 {
      words[index] = tag &+ mix
      mix &+= step
    }
  }

  /// Who wrote the word at `index` of a page.
  package static func writer(of word: UInt64, page number: Int, index: Int) -> Writer {
    if word == 0 { return .zero }
    let place = UInt64(truncatingIfNeeded: number) &* 512 &+ UInt64(truncatingIfNeeded: index)
    let tag = word &- place &* step
    if tag < refillBit { return .guest(tag) }
    if tag < refillBit << 1 { return .refill(tag & (refillBit - 1)) }
    return .stray
  }
}
