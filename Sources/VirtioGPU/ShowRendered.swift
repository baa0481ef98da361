import Buffers
import Fences
import GPUCommands
import Logging
import Pixels
import Scene

// RESOURCE_FLUSH of what the renderer drew: it copies the picture to where the guest does not draw.
extension GPUDevice {
  /// Asks for a picture for each output that shows a part of what changed. The guest does not wait
  /// for it, unless it asked for a fence.
  func flushRendered(_ resource: Resource, _ rect: Rect, _ exchange: Exchange) -> Outcome {
    guard !resource.isLost else { return .done }
    counters.flushes &+= 1
    let hold = exchange.header.isFenced ? makeHold(exchange) : nil
    for scanout in scanouts where scanout.resource === resource {
      guard let seen = rect.intersection(scanout.rect) else { continue }
      let damage = Rect(
        x: seen.x - scanout.rect.x, y: seen.y - scanout.rect.y, width: seen.width,
        height: seen.height)
      show(damage, on: scanout, hold)
    }
    guard let hold else { return .done }
    hold.release()
    holds.add(hold)
    return .later
  }

  /// Pictures of an output that may be on their way at a time. Each is read behind what was drawn
  /// when the guest flushed it; one that has to wait for another may be read in the middle of the
  /// frame after it.
  private static let mostAsked = 3

  /// What changes while all pictures are on their way is shown next.
  private func show(_ damage: Rect, on scanout: Scanout, _ hold: Hold?) {
    // Its number may be another resource's by now.
    guard let resource = scanout.resource, !resource.isLost, let renderer else { return }
    guard scanout.rendering.asked < Self.mostAsked else {
      scanout.rendering.owed = scanout.rendering.owed?.union(damage) ?? damage
      return
    }
    rendered.isUsed = true
    hold?.retain()
    let whole = scanout.rendering.isAllNew ? scanout.everything : damage
    scanout.rendering.isAllNew = false
    scanout.rendering.asked += 1
    let life = scanout.rendering.life
    renderer.perform(
      .show(resource: resource.id, output: scanout.index, crop: scanout.rect, damage: whole)
    ) { [weak self, weak scanout] result in
      if let self, let scanout {
        shown(result, whole, on: scanout, isOfUse: scanout.rendering.life == life)
      }
      hold?.release()
    }
  }

  /// A guest that flips between resources is one ahead by the time a picture comes: it is shown all
  /// the same, or nothing would be until the guest pauses.
  private func shown(
    _ result: Result<RenderReply, RenderFailure>, _ damage: Rect, on scanout: Scanout,
    isOfUse: Bool
  ) {
    scanout.rendering.asked = max(0, scanout.rendering.asked - 1)
    switch result {
    case .success(.shown(let frame)) where isOfUse && fits(frame, scanout):
      let changed = scanout.rendering.missed?.union(damage) ?? damage
      scanout.rendering.missed = nil
      scanout.rendering.give(frame)
      counters.renderedFrames &+= 1
      present(scanout, changed, lock: nil)
      retireRendered(scanout)
      scene.publish()
    case .success: break
    case .failure(let failure):
      counters.renderFailures &+= 1
      if isOfUse {
        scanout.rendering.missed = scanout.rendering.missed?.union(damage) ?? damage
      }
      log.debug("output \(scanout.index): the renderer has \(failure) a picture")
    }
    guard let owed = scanout.rendering.owed else { return }
    scanout.rendering.owed = nil
    if scanout.resource?.shape != nil { show(owed, on: scanout, nil) }
  }

  // MARK: Buffers

  /// Pictures of an output that those who look may have beside the newest, all together; the one
  /// before it counts, as it is on screen until now. The renderer has six: one is always free, for
  /// everybody else, whoever holds what for how long.
  private static let mostHeld = 4

  /// Those who look have so many pictures that the newest is given out as copies alone.
  private func isScarce(_ scanout: Scanout) -> Bool {
    scanout.rendering.heldPictures >= Self.mostHeld
  }

  /// What consumers get of the newest picture on an output; nil where it has to be copied.
  func renderedBuffer(of scanout: Scanout) -> OfferedBuffer? {
    guard !isScarce(scanout), let host = scanout.rendering.frame?.buffer,
      let buffer = store.offer(host, asCopy: configuration.mode == .copy)
    else { return nil }
    if !scanout.rendering.offered.contains(where: { $0 === host }) {
      scanout.rendering.offered.append(host)
    }
    return buffer
  }

  /// Takes from everybody what the renderer draws into no more and no output shows.
  func retireRendered(_ scanout: Scanout) {
    let shown = scanout.rendering.frame?.buffer
    takeRendered(from: scanout, .unused) { $0.isRetired && $0 !== shown }
  }

  /// Takes all buffers of an output from everybody.
  func revokeRendered(_ scanout: Scanout, _ reason: RevocationReason) {
    takeRendered(from: scanout, reason) { _ in true }
  }

  private func takeRendered(
    from scanout: Scanout, _ reason: RevocationReason, where isOver: (HostBuffer) -> Bool
  ) {
    let over = scanout.rendering.offered.filter(isOver)
    guard !over.isEmpty else { return }
    scanout.rendering.offered.removeAll { host in over.contains { $0 === host } }
    for host in over {
      guard let buffer = host.offered else { continue }
      // Whoever wants it once more gets another one: this one's name is gone.
      host.forgetOffer()
      scene.revoke(buffer, reason)
    }
  }

  /// Why what the renderer drew is shown as a copy.
  func whyRenderedIsCopied(_ scanout: Scanout) -> WhyCopied {
    if configuration.mode == .copy { return .asked }
    return isScarce(scanout)
      ? .late : .pages(scanout.rendering.frame?.buffer.copyReason?.kind)
  }

  /// A renderer may lie.
  private func fits(_ frame: HostFrame, _ scanout: Scanout) -> Bool {
    let layout = frame.buffer.pixels.layout
    return layout.width == scanout.rect.width && layout.height == scanout.rect.height
      && frame.buffer.planes.allSatisfy { $0.stride <= PictureLimits.stride }
  }
}
