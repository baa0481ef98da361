import Buffers
import Fences
import GuestMemory
import Logging

// How what the guest flushed reaches the sinks.
extension GPUDevice {
  /// Whether the guest's own pages are shown rather than a snapshot.
  func showsDirectly(_ resource: Resource) -> Bool {
    guard resource.guestPixels != nil, !resource.isIrregular else { return false }
    if resource.isBlob { return true }
    if wantsBuffers, resource.copyReason != nil { return false }
    switch configuration.mode {
    case .copy: return false
    case .direct: return true
    case .auto:
      if resource.scanouts == 0 { return scanouts.contains { $0.policy.isFlipping } }
      return !scanouts.contains { $0.resource === resource && !$0.policy.isFlipping }
    }
  }

  /// The pixels to show; nil when there is no memory for a snapshot.
  private func pixels(of resource: Resource) -> PixelSource? {
    if showsDirectly(resource) { return resource.guestPixels }
    do throws(Response) {
      if resource.imageIsStale, !resource.isIrregular { try resource.snapshot() }
      return try resource.ensureImage().pixels
    } catch {
      _ = refuse(.memory)
      return nil
    }
  }

  /// Shows what changed on a scanout to every sink.
  ///
  /// The pages are looked at before anything is published, so that a frame never shows pages
  /// which the guest lost.
  func present(_ scanout: Scanout, _ damage: Rect, hold: Hold?) {
    guard let resource = scanout.resource else { return }
    let renewed = verify(resource)
    let isWhole = renewed || scanout.isNew
    scanout.isNew = false
    let frame = makeFrame(scanout, resource, isWhole ? scanout.everything : damage, hold: hold)
    guard let frame else { return scanout.isNew = isWhole }
    scanout.hasPicture = true
    counters.frames &+= 1
    for sink in sinks { sink.present(frame) }
  }

  /// Shows all of a resource again wherever it is on screen.
  func showEverywhere(_ resource: Resource) {
    for scanout in scanouts where scanout.resource === resource && scanout.hasPicture {
      present(scanout, scanout.everything, hold: nil)
    }
  }

  private func makeFrame(
    _ scanout: Scanout, _ resource: Resource, _ damage: Rect, hold: Hold?, withBuffer: Bool = true
  ) -> Frame? {
    var buffer: OfferedBuffer?
    var bufferCrop = scanout.rect
    // Copies of frames that need none must be able to catch up later.
    for pool in scanout.pools { pool.copies.damage(damage) }
    if wantsBuffers, withBuffer {
      if directBufferAllowed(resource) { buffer = export(resource) }
      if buffer == nil {
        buffer = copyForAll(scanout)
        bufferCrop = scanout.everything
      }
    }
    guard let pixels = pixels(of: resource) else { return nil }
    if buffer?.memory == .guestPages { counters.directFrames &+= 1 }
    return Frame(
      output: scanout.index, crop: scanout.rect, damage: damage, pixels: pixels,
      buffer: buffer, bufferCrop: bufferCrop, hold: hold, copies: scanout,
      whyCopied: buffer?.memory == .guestPages ? nil : whyCopied(resource))
  }

  private func whyCopied(_ resource: Resource) -> WhyCopied {
    if configuration.mode == .copy { return .asked }
    if let reason = resource.copyReason { return .pages(reason.kind) }
    let isUsable = resource.guestPixels != nil && !resource.isIrregular
    return isUsable && !resource.isBlob ? .redrawn : .pages(nil)
  }

  func directBufferAllowed(_ resource: Resource) -> Bool {
    configuration.mode != .copy && showsDirectly(resource)
  }

  /// A copy for every consumer, where the guest's pages cannot be shown; nil while they hold all.
  private func copyForAll(_ scanout: Scanout) -> OfferedBuffer? {
    let made = copy(of: scanout, aligned: .usual)
    if let made, made.onIdle == nil {
      made.onIdle = { [unowned self, unowned scanout] in copyReleased(scanout) }
    }
    scanout.owesFrame = made == nil
    if made != nil { counters.copiedFrames &+= 1 } else { counters.copiesBusy &+= 1 }
    return made
  }

  /// A copy of what the scanout showed at the last flush; nil while consumers hold all.
  func copy(of scanout: Scanout, aligned: CopyAlignment) -> OfferedBuffer? {
    guard !scanout.isNew, let resource = scanout.resource, let pixels = pixels(of: resource)
    else { return nil }
    if scanout.pools.contains(where: { $0.copies.fourcc != pixels.layout.fourcc }) {
      dropPool(of: scanout, .unused)
    }
    guard let pool = pool(of: scanout, aligned.pooled, pixels.layout.fourcc) else { return nil }
    if let current = pool.current { return current }
    let before = pool.copiedBytes
    let nothing = Rect(x: 0, y: 0, width: 0, height: 0)
    let made = pool.update(from: pixels, crop: scanout.rect, damage: nothing)
    counters.copiedBytes &+= pool.copiedBytes &- before
    return made
  }

  /// As many copies as the budget has room for.
  private func pool(
    of scanout: Scanout, _ alignment: CopyAlignment, _ fourcc: FourCC
  ) -> CopyPool? {
    if let pool = scanout.pools.first(where: { $0.copies.alignment == alignment }) {
      return pool.copies
    }
    let (width, height) = (scanout.rect.width, scanout.rect.height)
    let row = UInt64(width) * 4 + UInt64(alignment.stride)
    let rows = UInt64(height) + UInt64(alignment.height)
    for limit in stride(from: configuration.maxCopies, through: 1, by: -1) {
      guard let share = budget.take(row * rows * UInt64(limit)) else { continue }
      let pool = CopyPool(
        width: width, height: height, fourcc: fourcc, alignment: alignment, limit: limit)
      scanout.pools.append((pool, share))
      return pool
    }
    _ = refuse(.memory)
    return nil
  }

  private func copyReleased(_ scanout: Scanout) {
    guard scanout.owesFrame, scanout.hasPicture else { return }
    present(scanout, scanout.everything, hold: nil)
  }

  func dropPool(of scanout: Scanout, _ reason: WithdrawReason) {
    let pools = scanout.pools
    scanout.pools = []
    for buffer in pools.flatMap(\.copies.offered) {
      for sink in sinks { sink.withdraw(buffer, reason: reason) {} }
    }
  }
}

extension GPUDevice: DisplaySource {
  /// Shows one sink all outputs, their present pictures and cursors again.
  public func replay(to sink: any DisplaySink) {
    for scanout in scanouts {
      guard let resource = scanout.resource else { continue }
      sink.output(scanout.index, resized: (scanout.rect.width, scanout.rect.height))
      if scanout.hasPicture {
        if verify(resource) { showEverywhere(resource) }
        let frame = makeFrame(
          scanout, resource, scanout.everything, hold: nil, withBuffer: sink.wantsBuffers)
        if let frame { sink.present(frame) }
      }
      sink.cursor(scanout.cursor, imageChanged: true)
    }
  }
}
