import CLinux
import Glibc
import Linux

/// A second, read-only mapping of a guest file that nobody reads.
///
/// Only ``arm(_:gap:)`` puts pages into it. A page that is present proves that the file still has
/// the page that was there when it was armed: whoever discards a page takes it out of all
/// mappings first. A missing page means: assume that it was replaced.
///
/// Belongs to one thread; the listener of its ``WitnessKeeper`` only sets marks.
public final class Witness {
  /// Device and inode of the file.
  public let identity: FileFacts.Identity
  /// Bytes that are witnessed: the file's size when it was mapped.
  public let size: UInt64
  /// The unit of discards in bytes.
  public let pageSize: UInt64
  private let hasShrinkSeal: Bool
  /// Where it is mapped. Only tests look there: a touch is taken for a discard.
  package let base: UnsafeMutableRawPointer
  private let engine: WitnessEngine
  private let marks: WitnessMarks
  /// The detector `faults` touches pages, and one that is broken raises SIGBUS. Then all of the
  /// mapping is zeros that prove nothing.
  private let shield: MemoryGuard?
  private var exported: [PageSpans] = []
  private static let retriesWhenBusy = 1000

  init(of file: GuestFile, _ engine: WitnessEngine) throws(WitnessError) {
    var code: CInt = 0
    guard let base = ph_map_witness(file.fd.raw, file.size, &code) else {
      throw .mapping(Errno(code, "mmap"))
    }
    let marks = WitnessMarks(
      base: UInt(bitPattern: base), size: file.size, pageSize: file.pageSize)
    guard let marks else {
      ph_unmap(base, file.size)
      throw .mapping(Errno(ENOMEM, "calloc"))
    }
    let span = marks.mappedSize
    if file.kind == .hugetlb, !engine.uffd.features.contains(.minorHugetlb) {
      ph_unmap(base, file.size)
      throw .missingFeature("MINOR_HUGETLBFS")
    }
    if let errno = engine.uffd.register(base, span, .minor) {
      ph_unmap(base, file.size)
      throw .notWatchable(errno)
    }
    do throws(Errno) {
      shield = engine.detector == .faults ? try MemoryGuard(base, Int(clamping: span)) : nil
    } catch {
      engine.uffd.unregister(base, span)
      ph_unmap(base, file.size)
      throw .mapping(error)
    }
    identity = file.identity
    size = span
    pageSize = file.pageSize
    hasShrinkSeal = file.seals?.contains(.shrink) ?? false
    self.base = base
    self.engine = engine
    self.marks = marks
    engine.listener.add(marks)
  }

  deinit {
    engine.listener.remove(marks)
    engine.uffd.unregister(base, size)
    shield?.end()
    ph_unmap(base, size)
  }

  func isOf(_ engine: WitnessEngine) -> Bool { self.engine === engine }

  /// A set of this file's pages.
  public func pages(_ spans: some Sequence<PageSpan>) throws(WitnessError) -> PageSpans {
    let pages = PageSpans(spans, pageSize: pageSize)
    if let last = pages.runs.last, last.end > size { throw .outside(last) }
    return pages
  }

  /// Fills the holes among these pages with zero pages, through the ordinary mapping: what the
  /// guest writes there later lands in the same pages.
  ///
  /// - Parameters:
  ///   - file: the file that this is the witness of.
  ///   - wereArmed: the pages were armed before, and few are expected to be gone. The detector
  ///     `faults` leaves those to ``arm(_:gap:)``: it has no other way to find them.
  public func fill(
    _ pages: PageSpans, of file: GuestFile, wereArmed: Bool = false
  ) throws(WitnessError) {
    switch engine.detector {
    case .scan, .pagemap:
      // A page that is present here is in the file.
      try forEachAbsent(pages) { (absent) throws(WitnessError) in try populate(absent, of: file) }
    case .faults:
      if wereArmed { return }
      for run in pages.runs { try populate(run, of: file) }
    }
  }

  private func populate(_ span: PageSpan, of file: GuestFile) throws(WitnessError) {
    do throws(Errno) {
      try file.populate(offset: span.offset, count: span.count)
    } catch { throw .filling(offset: span.offset, error) }
  }

  /// Makes pages present, so that their absence later means something.
  ///
  /// Pages that are present already stay as they are, and their proof holds.
  ///
  /// - Parameters:
  ///   - pages: of this file; with the detector `faults` exported too.
  ///   - gap: gets each run that was not present or was marked: whatever was built over these
  ///     pages before must be built again.
  /// - Throws: ``WitnessError/hole(offset:)`` at a page that the file does not have; the detector
  ///   `faults` may have filled it instead.
  public func arm(_ pages: PageSpans, gap: (PageSpan) -> Void) throws(WitnessError) {
    switch engine.detector {
    case .scan, .pagemap:
      try forEachAbsent(pages) { (absent) throws(WitnessError) in
        _ = try map(absent, gap)
      }
    case .faults:
      var arePresent = false
      for run in pages.runs {
        let start = arePresent ? try passPresent(from: run.offset, to: run.end) : run.offset
        arePresent = try map(PageSpan(offset: start, count: run.end &- start), gap)
      }
    }
    // After the pages: a fault that the listener resolved meanwhile was marked before.
    for run in pages.runs { marks.take(in: run, gap) }
  }

  /// - Returns: whether the last pages were present already.
  private func map(_ span: PageSpan, _ gap: (PageSpan) -> Void) throws(WitnessError) -> Bool {
    var at = span.offset
    var arePresent = span.count == 0
    var patience = Self.retriesWhenBusy
    while at < span.end {
      let r = engine.uffd.map(base + Int(truncatingIfNeeded: at), span.end &- at)
      switch r {
      case 1...:
        gap(PageSpan(offset: at, count: UInt64(r)))
        at &+= UInt64(r)
        arePresent = false
      case Int64(-EEXIST):
        at = try passPresent(from: at, to: span.end)
        arePresent = true
      case Int64(-EFAULT): throw .hole(offset: at)
      case Int64(-EAGAIN) where patience > 0:
        // A removal in this process waits for the listener.
        patience -= 1
        sched_yield()
      default:
        throw .arming(
          offset: at, Errno(CInt(truncatingIfNeeded: 0 &- r), "ioctl(UFFDIO_CONTINUE)"))
      }
    }
    return arePresent
  }

  /// Passes over pages that are probably present; one system call for each would cost a rebuild
  /// its time.
  ///
  /// With the detector `faults` the pages are touched: one that is not present faults and is
  /// mapped and marked, and its neighbours are better mapped in one go. Others look first, so that
  /// the first page is present.
  private func passPresent(from start: UInt64, to end: UInt64) throws(WitnessError) -> UInt64 {
    guard engine.detector == .faults else { return start &+ pageSize }
    try requireListener()
    var at = start
    while at < end {
      let page = PageSpan(offset: at, count: pageSize)
      ph_touch(base + Int(truncatingIfNeeded: at))
      at &+= pageSize
      if !marks.isEmpty, marks.count(in: page) > 0 { break }
    }
    try requireMapping()
    return at
  }

  /// Without the listener a fault would never end.
  private func requireListener() throws(WitnessError) {
    guard engine.listener.isRunning else { throw .listener(Errno(EPIPE, "read(userfaultfd)")) }
  }

  /// A page broke, and zeros took the place of all of the mapping; or a fault could not be served,
  /// so that nobody watches it. It proves nothing any more.
  var isBroken: Bool { shield?.isLost == true || marks.isGivenUp }

  /// Every page might be present then, whoever owns it.
  private func requireMapping() throws(WitnessError) {
    if isBroken { throw .broken }
  }

  /// How many of these pages may have been replaced since they were armed.
  ///
  /// - Parameters:
  ///   - pages: of this file, all of which were armed; with the detector `faults` exported too.
  ///   - limit: the detector `faults` stops looking after so many; each costs it a fault.
  public func missing(in pages: PageSpans, limit: Int = .max) throws(WitnessError) -> Int {
    let unit = pageSize
    var count: UInt64 = 0
    switch engine.detector {
    case .scan, .pagemap:
      try forEachAbsent(pages) { (absent) throws(WitnessError) in
        count &+= absent.count / unit &- UInt64(marks.count(in: absent))
      }
    case .faults: try touch(pages, limit)
    }
    // Marks after presence: the listener marks a page before it lets it appear.
    var marked = 0
    if !marks.isEmpty { for run in pages.runs { marked += marks.count(in: run) } }
    return Int(clamping: count) + marked
  }

  /// The pages among these that may have been replaced since they were armed, for a report.
  public func gone(in pages: PageSpans) throws(WitnessError) -> [PageSpan] {
    var gone: [PageSpan] = []
    switch engine.detector {
    case .scan, .pagemap:
      try forEachAbsent(pages) { (absent) throws(WitnessError) in gone.append(absent) }
    case .faults: try touch(pages, .max)
    }
    for run in pages.runs { marks.peek(in: run) { gone.append($0) } }
    return try self.pages(gone).runs
  }

  /// Touches pages until so many of them are marked; the listener marks what faults.
  private func touch(_ pages: PageSpans, _ limit: Int) throws(WitnessError) {
    try requireListener()
    var marked = 0
    for run in pages.runs {
      var at = run.offset
      while at < run.end {
        ph_touch(base + Int(truncatingIfNeeded: at))
        if !marks.isEmpty { marked += marks.count(in: PageSpan(offset: at, count: pageSize)) }
        if marked >= limit { return try requireMapping() }
        at &+= pageSize
      }
    }
    try requireMapping()
  }

  private func forEachAbsent(
    _ pages: PageSpans, _ body: (PageSpan) throws(WitnessError) -> Void
  ) throws(WitnessError) {
    guard let pageMap = engine.pageMap else { return }
    let origin = UInt64(UInt(bitPattern: base))
    for group in pages.groups {
      let end = origin &+ group.span.end
      var at = origin &+ group.span.offset
      var run = group.runs.lowerBound
      while at < end {
        let (regions, walked) = try pageMap.absent(from: at, to: end)
        for region in regions {
          let found = PageSpan(
            offset: region.start &- origin, count: region.end &- region.start)
          run = try pages.clip(found, from: run, body)
        }
        at = walked
      }
    }
  }

  /// Readies pages for ``missing(in:limit:)``; each call is matched by ``unexport(_:)``.
  ///
  /// The detector `faults` must be told of touched holes too. That stops the kernel from
  /// collapsing holes there into huge pages for everybody, so only exported pages get it.
  public func export(_ pages: PageSpans) throws(WitnessError) {
    if engine.detector == .faults {
      guard hasShrinkSeal else { throw .noShrinkSeal }
      if pageSize != UInt64(Linux.pageSize), !engine.uffd.features.contains(.missingHugetlb) {
        throw .missingFeature("MISSING_HUGETLBFS")
      }
      for run in pages.runs {
        let errno = engine.uffd.register(
          base + Int(truncatingIfNeeded: run.offset), run.count, [.missing, .minor])
        if let errno {
          exported.append(pages)
          unexport(pages)
          throw .notWatchable(errno)
        }
      }
    }
    exported.append(pages)
  }

  /// Ends an ``export(_:)`` of the same pages.
  public func unexport(_ pages: PageSpans) {
    guard let index = exported.firstIndex(where: { $0.runs == pages.runs }) else { return }
    exported.remove(at: index)
    guard engine.detector == .faults else { return }
    for run in pages.subtracting(exported) {
      let start = base + Int(truncatingIfNeeded: run.offset)
      // UFFDIO_REGISTER passes over what has all the modes that it asks for, and more.
      engine.uffd.unregister(start, run.count)
      _ = engine.uffd.register(start, run.count, .minor)
    }
  }
}
