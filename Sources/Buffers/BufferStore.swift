import GuestMemory
import Linux
import Logging
import Pixels

/// Makes buffers over guest pages, and finds out when their pages are no longer the guest's.
///
/// Belongs to one thread. The caller looks at a buffer before each frame that shows it, and at an
/// interval for as long as anybody may read it.
public final class BufferStore {
  /// What a look at a buffer's pages found.
  public enum Finding: ~Copyable {
    /// The pages are the guest's.
    case intact
    /// Pages were discarded, so that the buffer has no present generation any more; the proof that
    /// the last one was revoked is what ``rebuild(_:)`` takes.
    case discarded(Revocation, pages: Int)
    /// Nobody can tell whose the pages are: as for discarded ones, and it cannot be rebuilt.
    case unknown(Revocation, CopyReason)
    /// More pages were discarded since the last report, and nothing is done about it.
    case reported(OfferedBuffer, pages: Int, [PageSpan])
  }

  /// What a check found and did.
  public enum CheckResult {
    /// The pages are the guest's.
    case intact
    /// Pages were discarded; `new` took the place of `old`.
    case replaced(old: OfferedBuffer, new: OfferedBuffer, pages: Int)
    /// Pages were discarded and no buffer could be made again: show copies.
    case lost(old: OfferedBuffer, CopyReason)
    /// More pages were discarded since the last report, and nothing is done about it.
    case reported(OfferedBuffer, pages: Int, [PageSpan])
  }

  /// The parts of a build, in their order.
  package enum Step: Sendable {
    /// Holes are about to be filled.
    case fill
    /// The witness is about to be armed.
    case arm
    /// The dma-buf is about to be made.
    case create
    /// The witness is about to be asked.
    case verify
  }

  /// How often a build starts again because pages were discarded meanwhile.
  public static let maxAttempts = 3
  /// The default of ``pinBudget``: 1 GiB.
  public static let defaultPinBudget: UInt64 = 1 << 30
  /// Checks count no further than this: the first missing page decides.
  private static let countLimit = 16

  /// Bytes of guest memory that may be in dma-bufs.
  public var pinBudget = BufferStore.defaultPinBudget
  /// Keeps account of pages that others hold on to; without it they count as free.
  public var leftovers: Leftovers?
  /// What follows a discard.
  public var onDiscard = DiscardResponse.republish
  /// Whether an unchanged file is taken for one without discards, where the kernel allows that.
  public var usesGate = true
  /// Lets tests discard pages in the middle of a build.
  package var onStep: ((Step) -> Void)?
  let device: Result<UdmabufDevice, CopyReason>
  private let keeper: Result<WitnessKeeper, WitnessError>
  private let account = PinAccount()
  private var counted = BufferCounters()
  /// Found out at once, as long as a sandbox lets it discard pages of its own.
  private let timesAreExact = WitnessKeeper.timesAreExact
  private var buffers: [PageBuffer] = []
  private let log: Logger

  /// Makes an empty store.
  ///
  /// - Parameters:
  ///   - device: udmabuf, or why there is none.
  ///   - keeper: what notices discards, or why there is none.
  ///   - log: gets each reason for copies once.
  public init(
    device: Result<UdmabufDevice, CopyReason>, keeper: Result<WitnessKeeper, WitnessError>,
    log: Logger = Logger(label: "pinhole.buffers")
  ) {
    self.device = device
    self.keeper = keeper
    self.log = log
  }

  /// Bytes of guest memory in dma-bufs that this process holds.
  public var pinnedBytes: UInt64 { account.bytes }

  /// What was done so far.
  public var counters: BufferCounters {
    var all = counted
    all.pins = account.pins
    all.unpins = account.unpins
    all.pinnedBytes = account.bytes
    all.kept = UInt64(leftovers?.count ?? 0)
    all.exportedBytes = buffers.reduce(0) { $0 &+ $1.size }
    return all
  }

  /// The buffers over guest pages that are on offer, oldest first.
  public var reports: [BufferReport] { buffers.map(BufferReport.init) }

  /// Whether checks look at the times of the guest's files before they look at its pages.
  public var hasGate: Bool { usesGate && timesAreExact }

  /// The detector in use, nil without a witness.
  public var detector: Detector? { try? keeper.get().detector }

  /// What stands in the way of a buffer over guest pages, as far as that can be told without
  /// making one; nil if nothing does.
  public func obstacle(layout: PixelLayout, ranges: [FileRange]) -> CopyReason? {
    do throws(CopyReason) {
      let device = try device.get()
      do throws(WitnessError) { _ = try keeper.get() } catch { throw reason(error) }
      _ = try BufferPlan(layout: layout, ranges: ranges, limits: device.limits)
      return nil
    } catch { return error }
  }

  /// Makes the first generation of a buffer over guest pages.
  ///
  /// - Parameters:
  ///   - layout: of the picture in the joined ranges.
  ///   - ranges: its memory in order.
  ///   - after: the buffer of the same picture in other pages, whose next generation this is.
  /// - Returns: the buffer, whose ``PageBuffer/current`` can be offered; or why to copy, which is
  ///   counted and logged once.
  public func make(
    layout: PixelLayout, ranges: [FileRange], after: BufferName? = nil
  ) -> Result<PageBuffer, CopyReason> {
    do throws(CopyReason) {
      let buffer = try prepare(layout, ranges, after)
      do throws(CopyReason) {
        buffer.current = try build(buffer)
      } catch {
        unexport(buffer)
        throw error
      }
      counted.builds &+= 1
      buffers.append(buffer)
      return .success(buffer)
    } catch {
      note(error)
      return .failure(error)
    }
  }

  private func prepare(
    _ layout: PixelLayout, _ ranges: [FileRange], _ after: BufferName?
  ) throws(CopyReason) -> PageBuffer {
    let device = try device.get()
    let keeper: WitnessKeeper
    do throws(WitnessError) { keeper = try self.keeper.get() } catch {
      throw reason(error)
    }
    let plan = try BufferPlan(layout: layout, ranges: ranges, limits: device.limits)
    try checkBudget(adding: plan.bytes)
    do throws(WitnessError) {
      return PageBuffer(
        layout: layout, plan: plan, watched: try watch(plan.items, keeper), after: after)
    } catch { throw reason(error) }
  }

  private func checkBudget(adding bytes: UInt64, insteadOf old: UInt64 = 0) throws(CopyReason) {
    if leftovers?.isFull == true { throw .notLetGo(Leftovers.most) }
    let (sum, overflow) = account.bytes.addingReportingOverflow(bytes)
    guard !overflow, sum &- min(old, sum) <= pinBudget else {
      throw .overPinBudget(bytes: bytes, pinned: account.bytes, budget: pinBudget)
    }
  }

  private func watch(
    _ items: [FileRange], _ keeper: WitnessKeeper
  ) throws(WitnessError) -> [PageBuffer.Watched] {
    var watched: [PageBuffer.Watched] = []
    do throws(WitnessError) {
      for item in items {
        let identity = item.file.identity
        if watched.contains(where: { $0.witness.identity == identity }) { continue }
        let witness = try keeper.witness(for: item.file)
        let spans = items.filter { $0.file.identity == identity }
          .map { PageSpan(offset: $0.offset, count: $0.count) }
        let pages = try witness.pages(spans)
        try witness.export(pages)
        watched.append(PageBuffer.Watched(file: item.file, witness: witness, pages: pages))
      }
    } catch {
      for each in watched { each.witness.unexport(each.pages) }
      throw error
    }
    return watched
  }

  private func unexport(_ buffer: PageBuffer) {
    for watched in buffer.watched { watched.witness.unexport(watched.pages) }
  }

  /// Makes a dma-buf whose pages were all the guest's after it was made.
  ///
  /// The order leaves no window: what is discarded before the witness is armed is not in the
  /// dma-buf, and what is discarded later is missing from the witness.
  private func build(_ buffer: PageBuffer) throws(CopyReason) -> OfferedBuffer {
    let device = try device.get()
    for attempt in 0..<Self.maxAttempts {
      if attempt > 0 { counted.retries &+= 1 }
      guard try ready(buffer, wereArmed: attempt == 0 && buffer.generation > 0) else { continue }
      onStep?(.create)
      let fd: OwnedFD
      do throws(Errno) { fd = try device.create(buffer.ranges) } catch { throw .failed(error) }
      let pin = Pin(account, bytes: buffer.size)
      onStep?(.verify)
      let gone = onDiscard == .ignore ? 0 : try look(buffer)
      guard gone == 0 else { continue }
      buffer.isSuspect = false
      buffer.generation &+= 1
      let offered = OfferedBuffer(
        id: buffer.id, generation: buffer.generation, layout: buffer.layout, size: buffer.size,
        fd: SharedFD(fd), memory: .guestPages)
      offered.charge = pin
      offered.leftovers = leftovers
      return offered
    }
    throw .discardsOutran
  }

  /// Fills and arms; false when a page was discarded meanwhile.
  private func ready(_ buffer: PageBuffer, wereArmed: Bool) throws(CopyReason) -> Bool {
    onStep?(.fill)
    try fill(buffer, wereArmed: wereArmed)
    onStep?(.arm)
    if try arm(buffer) { return true }
    // A hole that was left to arming.
    return wereArmed ? try ready(buffer, wereArmed: false) : false
  }

  private func fill(_ buffer: PageBuffer, wereArmed: Bool) throws(CopyReason) {
    do throws(WitnessError) {
      for watched in buffer.watched {
        try watched.witness.fill(watched.pages, of: watched.file, wereArmed: wereArmed)
      }
    } catch { throw reason(error) }
  }

  /// False when a page was discarded meanwhile.
  private func arm(_ buffer: PageBuffer) throws(CopyReason) -> Bool {
    do throws(WitnessError) {
      for watched in buffer.watched {
        try watched.witness.arm(watched.pages) { suspect($0, watched.witness, but: buffer) }
      }
      return true
    } catch {
      if case .hole = error { return false }
      throw reason(error)
    }
  }

  /// Arming takes away the proof that other buffers on the same pages would have found.
  private func suspect(_ gap: PageSpan, _ witness: Witness, but buffer: PageBuffer) {
    for other in buffers where other !== buffer && !other.isSuspect {
      if other.overlaps(gap, of: witness) { other.isSuspect = true }
    }
  }

  /// Counts missing pages, and notes as of when there were none.
  private func look(_ buffer: PageBuffer) throws(CopyReason) -> Int {
    // Before the pages: what is discarded while they are looked at is missing, or changes the
    // times that are kept. Times read afterwards would stand for pages that nobody looked at.
    if hasGate { buffer.readTimes() }
    let gone = try missing(buffer)
    if gone == 0, hasGate { buffer.keepTimes() }
    return gone
  }

  private func missing(_ buffer: PageBuffer) throws(CopyReason) -> Int {
    var count = 0
    do throws(WitnessError) {
      for watched in buffer.watched {
        count += try watched.witness.missing(in: watched.pages, limit: Self.countLimit)
      }
    } catch { throw reason(error) }
    return count
  }

  /// Finds out whether a buffer still shows the guest's pages; one that may not is not on offer
  /// any more when this returns.
  ///
  /// An intact buffer costs one scan for each group of neighbouring pages and no allocation.
  public func look(at buffer: PageBuffer) -> Finding {
    guard buffer.state == .intact, let old = buffer.current, onDiscard != .ignore else {
      return .intact
    }
    counted.checks &+= 1
    if hasGate, !buffer.isSuspect, buffer.timesAreKept {
      counted.gated &+= 1
      return .intact
    }
    do throws(CopyReason) {
      let gone = try look(buffer)
      guard gone > 0 || buffer.isSuspect else { return .intact }
      if onDiscard == .report { return try report(buffer, old) }
      counted.discards &+= 1
      counted.discardedPages &+= UInt64(gone)
      buffer.current = nil
      return .discarded(Revocation(of: old, buffer), pages: gone)
    } catch {
      lose(buffer, error)
      return .unknown(Revocation(of: old, buffer), error)
    }
  }

  /// Makes the next generation of a buffer whose last one was revoked, whose pages are not counted
  /// twice.
  public func rebuild(_ revoked: consuming Revoked) -> Result<OfferedBuffer, CopyReason> {
    let buffer = revoked.picture
    let start = Clock.now
    do throws(CopyReason) {
      try checkBudget(adding: buffer.size, insteadOf: revoked.bytes)
      let new = try build(buffer)
      counted.rebuilds &+= 1
      counted.rebuildTimes.add(Clock.now &- start)
      buffer.current = new
      return .success(new)
    } catch {
      lose(buffer, error)
      return .failure(error)
    }
  }

  private func lose(_ buffer: PageBuffer, _ reason: CopyReason) {
    counted.losses &+= 1
    buffer.current = nil
    remove(buffer, as: .lost)
    note(reason)
  }

  /// Looks at a buffer and rebuilds it if need be, where nobody has the old generation.
  package func check(_ buffer: PageBuffer) -> CheckResult {
    guard let old = buffer.current else { return .intact }
    switch look(at: buffer) {
    case .intact: return .intact
    case .unknown(let revocation, let reason):
      _ = revocation.carryOut { _ in }
      return .lost(old: old, reason)
    case .reported(let shown, let pages, let spans):
      return .reported(shown, pages: pages, spans)
    case .discarded(let revocation, let pages):
      switch rebuild(revocation.carryOut { _ in }) {
      case .success(let new): return .replaced(old: old, new: new, pages: pages)
      case .failure(let reason): return .lost(old: old, reason)
      }
    }
  }

  /// Releases a buffer of which nobody has a generation.
  package func drop(_ buffer: PageBuffer) {
    guard let revocation = release(buffer) else { return }
    _ = revocation.carryOut { _ in }
  }

  private func report(
    _ buffer: PageBuffer, _ current: OfferedBuffer
  ) throws(CopyReason) -> Finding {
    var spans: [PageSpan] = []
    do throws(WitnessError) {
      for watched in buffer.watched { spans += try watched.witness.gone(in: watched.pages) }
    } catch { throw reason(error) }
    let unit = buffer.watched.first?.witness.pageSize ?? UInt64(pageSize)
    let pages = Int(clamping: spans.reduce(0) { $0 &+ $1.count } / unit)
    // They stay missing, because nothing is armed again: only more of them are news.
    guard pages > buffer.reportedPages else { return .intact }
    counted.discards &+= 1
    counted.reports &+= 1
    counted.discardedPages &+= UInt64(pages - buffer.reportedPages)
    buffer.reportedPages = pages
    return .reported(current, pages: pages, spans)
  }

  /// Stops watching a buffer that nobody shows any more.
  ///
  /// - Returns: the duty to revoke the generation that was on offer; nil if none was. Its pages stay
  ///   pinned until the last holder lets it go.
  public func release(_ buffer: PageBuffer) -> Revocation? {
    let last = buffer.current
    buffer.current = nil
    if buffer.state == .intact { remove(buffer, as: .released) }
    buffer.state = .released
    guard let last else { return nil }
    return Revocation(of: last, buffer)
  }

  private func remove(_ buffer: PageBuffer, as state: PageBuffer.State) {
    buffer.state = state
    unexport(buffer)
    buffers.removeAll { $0 === buffer }
  }

  private func reason(_ error: WitnessError) -> CopyReason {
    if case .filling(_, let errno) = error { .failed(errno) } else { .witnessUnavailable(error) }
  }

  func note(_ reason: CopyReason) {
    guard counted.count(reason.kind) else { return }
    log.notice("showing a copy of a picture: \(reason)")
  }
}
