import Buffers
import Fences
import GPUCommands
import GuestMemory
import Logging
import Pixels
import Scene

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

  /// The pixels to show, and who keeps the memory behind them: the guest's pages, or what was in its
  /// snapshot at the last flush. Nil when there is no memory for a snapshot.
  private func picture(of resource: Resource) -> (pixels: PixelSource, owner: AnyObject)? {
    if showsDirectly(resource), let pixels = resource.guestPixels, let backing = resource.backing {
      resource.snapshots.hide()
      return (pixels, backing)
    }
    if resource.snapshots.shown == nil, newestSnapshot(of: resource) == nil { return nil }
    return resource.snapshots.show().map { ($0.pixels, $0) }
  }

  /// The pixels that the guest has given last, whether it has flushed them or not; nil when there is
  /// no memory for them.
  func newestPixels(of resource: Resource) -> PixelSource? {
    if showsDirectly(resource), let pixels = resource.guestPixels { return pixels }
    return newestSnapshot(of: resource)?.pixels
  }

  private func newestSnapshot(of resource: Resource) -> HostImage? {
    do throws(GPUError) {
      if resource.imageIsStale, !resource.isIrregular { try resource.snapshot() }
      return try resource.ensureImage()
    } catch {
      _ = refuse(.memory)
      return nil
    }
  }

  /// To be called before a rectangle of a snapshot is written: finds out who reads which.
  func prepare(_ resource: Resource, _ rect: Rect) throws(GPUError) {
    if resource.snapshots.isRead { scene.reviewLocks() }
    try resource.prepare(rect)
  }

  /// What is shown of a snapshot, for those who send it by reference.
  private func still(of resource: Resource, _ owner: AnyObject) -> StillPicture? {
    guard owner === resource.snapshots.shown else { return nil }
    if resource.snapshots.isRead { scene.reviewLocks() }
    return resource.snapshots.still()
  }

  /// What an output shows, where in it, and who keeps the memory behind it; nil where nothing can
  /// be shown.
  private func source(of scanout: Scanout) -> (pixels: PixelSource, crop: Rect, owner: AnyObject)? {
    guard let resource = scanout.resource else { return nil }
    guard resource.shape != nil else {
      return picture(of: resource).map { ($0.pixels, scanout.rect, $0.owner) }
    }
    return scanout.rendering.frame.map {
      ($0.buffer.pixels, scanout.everything, FrameKeeper($0))
    }
  }

  /// Commits what changed on a scanout.
  ///
  /// The pages are looked at before anything is published, so that a frame never shows pages
  /// which the guest lost.
  ///
  /// - Parameter lock: keeps the guest's fence back; nil for unfenced flushes.
  func present(_ scanout: Scanout, _ damage: Rect, lock: Hold?) {
    guard let resource = scanout.resource else { return }
    let renewed = verify(resource)
    lookAtOthers(than: resource)
    let isWhole = renewed || scanout.isNew
    let isWanted = wantsBuffers
    let isRendered = resource.shape != nil
    var buffer: OfferedBuffer?
    if isWanted, isRendered {
      buffer = renderedBuffer(of: scanout)
    } else if isWanted, directBufferAllowed(resource) {
      buffer = export(resource)
    }
    guard let (pixels, crop, owner) = source(of: scanout) else {
      scanout.isNew = true
      return scene.invalidate(scanout.index)
    }
    scanout.isNew = false
    scanout.hasPicture = true
    counters.frames &+= 1
    let isDirect = buffer?.isOriginal ?? false
    if isDirect { counters.directFrames &+= 1 }
    scene.commit(
      Commit(
        output: scanout.index, crop: crop,
        damage: isWhole ? scanout.everything : damage, pixels: pixels, owner: owner,
        still: still(of: resource, owner), buffer: buffer,
        lock: lock ?? (owner as? FrameKeeper)?.lock,
        whyCopied: !isDirect && isWanted
          ? isRendered ? whyRenderedIsCopied(scanout) : whyCopied(resource) : nil))
  }

  /// What is on screen of a resource lies elsewhere from now on, and looks the same.
  func repoint(_ resource: Resource) {
    for scanout in scanouts where scanout.resource === resource && scanout.hasPicture {
      repoint(scanout)
    }
  }

  /// What an output shows lies elsewhere from now on, and looks the same.
  func repoint(_ scanout: Scanout) {
    guard let (pixels, _, owner) = source(of: scanout) else {
      return scene.invalidate(scanout.index)
    }
    scene.repoint(scanout.index, to: pixels, owner: owner)
  }

  /// Shows all of a resource again wherever it is on screen.
  func showEverywhere(_ resource: Resource) {
    for scanout in scanouts where scanout.resource === resource && scanout.hasPicture {
      present(scanout, scanout.everything, lock: nil)
    }
  }

  private func whyCopied(_ resource: Resource) -> WhyCopied {
    if configuration.mode == .copy { return .asked }
    if let reason = resource.copyReason { return .pages(reason.kind) }
    guard resource.guestPixels != nil, !resource.isIrregular else { return .pages(nil) }
    if let obstacle = resource.obstacle(in: store) { return .pages(obstacle) }
    return resource.isBlob ? .pages(nil) : .redrawn
  }

  func directBufferAllowed(_ resource: Resource) -> Bool {
    configuration.mode != .copy && showsDirectly(resource)
  }

  /// Looks at the pages of a buffer that is about to be sent later than it was flushed.
  private func look(at buffer: OfferedBuffer) {
    guard let resource = exporting.first(where: { $0.exported?.current === buffer }) else { return }
    if verify(resource) { showEverywhere(resource) }
  }

  /// The end of a loop's turn, as ``Scene`` says: late frames after a look, then the interrupt.
  func finishTurn() {
    if hadDemand != wantsBuffers {
      hadDemand = wantsBuffers
      demandChanged()
    }
    scene.forEachLateBuffer { look(at: $0) }
    scene.finishTurn()
    let made = scene.counters
    counters.copiedFrames = made.copies
    counters.copiesBusy = made.copiesBusy
    counters.copiedBytes &+= made.copiedBytes &- countedCopies
    countedCopies = made.copiedBytes
    interrupt()
  }

  /// Consumers came or went: without any, no page stays pinned.
  private func demandChanged() {
    if wantsBuffers {
      for scanout in scanouts where scanout.hasPicture && !scanout.isNew {
        guard let resource = scanout.resource,
          resource.shape != nil || directBufferAllowed(resource)
        else { continue }
        present(scanout, scanout.everything, lock: nil)
      }
    } else {
      for resource in exporting where !resource.isImported { revoke(resource, .unused) {} }
      for scanout in scanouts { revokeRendered(scanout, .unused) }
    }
  }
}

/// Keeps a picture that a renderer drew for as long as it is on screen, or somebody has it.
private final class FrameKeeper {
  /// The last to release it lets the renderer draw there again.
  let lock: Hold

  init(_ frame: HostFrame) { lock = Hold { withExtendedLifetime(frame) {} } }

  deinit { lock.release() }
}
