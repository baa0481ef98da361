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
      log.warning("no memory for a snapshot of resource \(resource.id)")
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
    let frame = makeFrame(
      scanout, resource, renewed ? scanout.everything : damage, hold: hold)
    guard let frame else { return }
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
    if wantsBuffers, withBuffer {
      if directBufferAllowed(resource) { buffer = export(resource) }
      if buffer == nil {
        guard let pixels = pixels(of: resource) else { return nil }
        buffer = copy(scanout, pixels, damage)
        bufferCrop = scanout.everything
      }
    }
    guard let pixels = pixels(of: resource) else { return nil }
    if buffer?.memory == .guestPages {
      counters.directFrames &+= 1
      // The copies miss this frame; they must catch up when the guest is shown in copies again.
      scanout.pool?.damage(damage)
    }
    return Frame(
      output: scanout.index, crop: scanout.rect, damage: damage, pixels: pixels,
      buffer: buffer, bufferCrop: bufferCrop, hold: hold)
  }

  private func directBufferAllowed(_ resource: Resource) -> Bool {
    configuration.mode != .copy && showsDirectly(resource)
  }

  /// A copy of the scanout's picture for consumers; nil while they hold all copies.
  private func copy(
    _ scanout: Scanout, _ pixels: PixelSource, _ damage: Rect
  ) -> OfferedBuffer? {
    if scanout.pool?.fourcc != pixels.layout.fourcc {
      dropPool(of: scanout, .unused)
      scanout.pool = CopyPool(
        width: scanout.rect.width, height: scanout.rect.height, fourcc: pixels.layout.fourcc)
    }
    let made = scanout.pool?.update(from: pixels, crop: scanout.rect, damage: damage)
    if let made, made.onIdle == nil {
      made.onIdle = { [unowned self, unowned scanout] in copyReleased(scanout) }
    }
    scanout.owesFrame = made == nil
    if made != nil { counters.copiedFrames &+= 1 } else { counters.copiesBusy &+= 1 }
    return made
  }

  private func copyReleased(_ scanout: Scanout) {
    guard scanout.owesFrame, scanout.hasPicture else { return }
    present(scanout, scanout.everything, hold: nil)
  }

  func dropPool(of scanout: Scanout, _ reason: WithdrawReason) {
    guard let pool = scanout.pool else { return }
    scanout.pool = nil
    for buffer in pool.offered {
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
