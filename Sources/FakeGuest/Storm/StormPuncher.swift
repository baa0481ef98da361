import Glibc
import Linux

/// The other process of a storm: it discards random runs of the picture's pages while the guest
/// draws and flushes and while buffers are built, and fills some of the holes again.
package final class StormPuncher {
  /// What it does, the same for the same numbers.
  package struct Options: Sendable {
    /// Chooses the runs.
    package var seed: UInt64 = 1
    /// Where the picture begins in the file, in bytes.
    package var start: UInt64 = 0
    /// Bytes of a page of the file: the least that is discarded.
    package var unit: UInt64 = 4096
    /// Runs for each frame of the guest, on average.
    package var burstsPerFrame: UInt64 = 4
    /// The usual.
    package init() {}
  }

  private static let removeAdvice: CInt = 9  // MADV_REMOVE
  private static let hugePage = 512
  private let file: CInt
  private let control: StormControl
  private let memory: Mapping
  private let options: Options
  private var random: SeededRandom

  /// Takes the guest's memory and the control file, 3 and 4 where ``Storm`` started us.
  package init(file: CInt = 3, control: CInt = 4, _ options: Options) throws(GuestError) {
    self.file = file
    self.options = options
    random = SeededRandom(seed: options.seed)
    let facts = try doing("the guest's memory") { () throws(Errno) in try FileFacts(of: file) }
    memory = try doing("the guest's memory") { () throws(Errno) in
      try Mapping(fd: file, offset: 0, count: Int(clamping: facts.size), writable: true)
    }
    self.control = try StormControl(adopting: OwnedFD(adopting: control))
  }

  /// Discards until the guest stops it.
  package func run() {
    while !control.isStopped {
      // Never far ahead of the guest, which would only punch holes into holes.
      let allowed = (control.frames + 2) * options.burstsPerFrame
      guard control.bursts < allowed else {
        usleep(100)
        continue
      }
      let code = burst()
      if code != 0 { return control.fail(code) }
      let mean = control.frameTime / max(options.burstsPerFrame, 1)
      let pause = mean == 0 ? 0 : UInt64.random(in: 0...(2 * mean), using: &random)
      if pause > 0 { usleep(UInt32(clamping: min(pause, 500_000))) }
    }
  }

  private func burst() -> CInt {
    let run = chooseRun()
    let advise = random.next() & 7 == 0
    let refills = random.next() % 3 == 0
    for page in run { control.begin(page) }
    defer { for page in run { control.end(page) } }
    let start = options.start + UInt64(run.lowerBound) * 4096
    let count = UInt64(run.count) * 4096
    do throws(Errno) {
      if advise {
        try memory.advise(Self.removeAdvice, offset: Int(start), count: Int(count))
      } else {
        try MemFD.punchHole(file, offset: start, count: count)
      }
    } catch { return error.code }
    if refills {
      for page in run {
        StormStamp.write(
          memory.base + Int(options.start) + page * 4096,
          tag: StormStamp.refill(control.nextRefill()), page: page)
      }
    }
    control.burstDone(pages: UInt64(run.count))
    return 0
  }

  /// Mostly single pages and short runs; now and then a huge page, a stretch that is not aligned
  /// to one, and the whole picture.
  private func chooseRun() -> Range<Int> {
    let unit = max(1, Int(options.unit / 4096))
    let total = control.pages / unit
    let kind = random.next() % 64
    let first = Int(random.next() % UInt64(total))
    let length: Int
    switch kind {
    case 0: return 0..<(total * unit)
    case 1...4:
      let huge = max(1, Self.hugePage / unit)
      let aligned = first / huge * huge
      return pages(aligned, huge, unit, total)
    case 5...8: length = max(1, Self.hugePage / unit)
    case 9...24: length = 1 + Int(random.next() % 64)
    default: length = 1
    }
    return pages(first, length, unit, total)
  }

  private func pages(_ first: Int, _ length: Int, _ unit: Int, _ total: Int) -> Range<Int> {
    first * unit..<min(first + length, total) * unit
  }
}
