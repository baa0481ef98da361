import Buffers
import Fences
import GuestMemory
import Linux
import Logging

// dma-bufs over the guest's pages: made when shown, checked, rebuilt, and let go.
extension GPUDevice {
  /// Ticks of the scan timer after which a buffer that nothing shows is let go.
  private static let idleTicks: UInt64 = 200
  /// Nanoseconds after which buffers that nothing shows are looked at in any case.
  private static let longestPause: UInt64 = 500_000_000
  /// Nanoseconds for which a picture is copied after a reason that may pass.
  private static let copyTime: UInt64 = 100_000_000

  /// The dma-buf of a resource, made now if need be; nil if it has to be copied.
  func export(_ resource: Resource) -> OfferedBuffer? {
    if resource.exported == nil {
      guard resource.copyReason == nil, let backing = resource.backing else { return nil }
      let (layout, ranges) = backing.window(resource.layout)
      switch store.make(layout: layout, ranges: ranges, after: resource.predecessor) {
      case .success(let buffer):
        resource.predecessor = nil
        resource.exported = buffer
        exporting.append(resource)
        updateTimer()
        log.debug(
          "resource \(resource.id): buffer \(buffer.id) shows guest pages \(backing.description)")
      case .failure(let reason):
        fallBack(resource, reason)
        return nil
      }
    }
    resource.lastShown = ticks
    return resource.exported?.current
  }

  private func fallBack(_ resource: Resource, _ reason: CopyReason) {
    resource.copyReason = reason
    resource.copiedSince = Clock.now
    // The pages were shown until now, so transfers were not copied.
    if !resource.isBlob { resource.imageIsStale = true }
  }

  /// Tries guest pages again some time after discards outran a build.
  private func forgive(_ resource: Resource) {
    guard let reason = resource.copyReason, reason.isTransient,
      Clock.now &- resource.copiedSince > Self.copyTime
    else { return }
    resource.copyReason = nil
  }

  /// Looks whether the pages under a resource's dma-buf are still the guest's.
  ///
  /// - Returns: true if the buffer was rebuilt or given up, so that all of it must be shown.
  func verify(_ resource: Resource) -> Bool {
    guard let buffer = resource.exported else {
      forgive(resource)
      return false
    }
    switch store.check(buffer) {
    case .intact:
      return false
    case .replaced(let old, let new, let pages):
      log.info(
        """
        \(place(of: resource)): \(pages) pages of buffer \(old.id).\(old.generation) were \
        discarded, generation \(new.generation) has the guest's new ones
        """)
      counters.discards &+= 1
      for sink in sinks { sink.withdraw(old, reason: .discarded) {} }
      return true
    case .lost(let old, let reason):
      log.warning("\(place(of: resource)): buffer \(old.id).\(old.generation) lost: \(reason)")
      counters.discards &+= 1
      fallBack(resource, reason)
      for sink in sinks { sink.withdraw(old, reason: .discarded) {} }
      withdraw(resource, .discarded) {}
      return true
    case .reported(let shown, let pages, let spans):
      counters.discards &+= 1
      log.warning(
        """
        \(place(of: resource)): \(pages) pages of buffer \(shown.id).\(shown.generation) were \
        discarded and still show what was there before, at file offsets \(describe(spans))
        """)
      return false
    }
  }

  /// Where a resource is seen, for the log.
  private func place(of resource: Resource) -> String {
    let outputs = scanouts.filter { $0.resource === resource }.map { "\($0.index)" }
    let place = outputs.isEmpty ? "off screen" : "on output \(outputs.joined(separator: ", "))"
    return "resource \(resource.id) \(place)"
  }

  /// Runs of pages as OFFSET+LENGTH, the first few of them.
  private func describe(_ spans: [PageSpan]) -> String {
    let few = spans.prefix(8).map { "\($0.offset)+\($0.count)" }.joined(separator: ",")
    return spans.count > 8 ? few + " and \(spans.count - 8) more" : few
  }

  /// Takes a resource's dma-buf from all sinks and unpins its pages.
  ///
  /// - Parameter released: runs once no sink uses the buffer any more.
  func withdraw(
    _ resource: Resource, _ reason: WithdrawReason, _ released: @escaping () -> Void
  ) {
    guard let buffer = resource.exported else { return released() }
    resource.exported = nil
    exporting.removeAll { $0 === resource }
    updateTimer()
    guard let last = store.release(buffer) else { return released() }
    let all = Hold(released)
    for sink in sinks {
      all.retain()
      sink.withdraw(last, reason: reason) { all.release() }
    }
    all.release()
  }

  /// A resource left the screen: if the guest destroyed it meanwhile, so does its buffer.
  func retireOrphan(_ resource: Resource) {
    guard resource.scanouts == 0, resources[resource.id] !== resource else { return }
    withdraw(resource, .destroyed) {}
  }

  /// A frame was looked at just now: where it is the only one on screen, the next look between
  /// flushes is due a whole interval from now. Where flushes come steadily they do without.
  func postponeTick() {
    let now = Clock.now
    pace.flushed(at: now)
    guard showsOne, now &- tickedAt < Self.longestPause else { return }
    armTimer(now)
  }

  private var showsOne: Bool {
    exporting.count(where: { $0.scanouts > 0 || $0.isImported }) == 1
  }

  private func armTimer(_ now: UInt64) {
    let interval = configuration.scanInterval
    timer?.arm(
      after: pace.isSteady(at: now) ? max(interval, FlushPace.longestGap) : interval,
      every: interval)
  }

  /// The timer's turn: between flushes, tell consumers that re-read the last frame.
  func tick() {
    let now = Clock.now
    ticks &+= max(1, (now &- tickedAt) / max(configuration.scanInterval, 1))
    tickedAt = now
    for resource in exporting {
      if resource.scanouts == 0, !resource.isImported {
        if ticks &- resource.lastShown > Self.idleTicks { withdraw(resource, .unused) {} }
      } else {
        resource.lastShown = ticks
        if verify(resource) { showEverywhere(resource) }
      }
    }
    if showsOne, pace.isSteady(at: now) { armTimer(now) }
  }

  /// Consumers came or went: without any, no page stays pinned.
  public func demandChanged() {
    guard !wantsBuffers else { return }
    for resource in exporting where !resource.isImported { withdraw(resource, .unused) {} }
    for scanout in scanouts { dropPool(of: scanout, .unused) }
  }
}
