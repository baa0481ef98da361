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

  /// One picture of an output is on its way at a time; what changes meanwhile is shown next.
  private func show(_ damage: Rect, on scanout: Scanout, _ hold: Hold?) {
    // Its number may be another resource's by now.
    guard let resource = scanout.resource, !resource.isLost, let renderer else { return }
    guard !scanout.rendering.isAsked else {
      scanout.rendering.owed = scanout.rendering.owed?.union(damage) ?? damage
      return
    }
    rendered.isUsed = true
    scanout.rendering.isAsked = true
    hold?.retain()
    let area = scanout.rect
    let whole = scanout.rendering.frame == nil ? scanout.everything : damage
    renderer.perform(
      .show(resource: resource.id, output: scanout.index, crop: area, damage: whole)
    ) { [weak self, weak scanout] result in
      if let self, let scanout {
        shown(
          result, whole, on: scanout,
          isStillShown: {
            scanout.resource === resource && scanout.rect == area
          })
      }
      hold?.release()
    }
  }

  private func shown(
    _ result: Result<RenderReply, RenderFailure>, _ damage: Rect, on scanout: Scanout,
    isStillShown: () -> Bool
  ) {
    scanout.rendering.isAsked = false
    if case .failure(let failure) = result {
      counters.renderFailures &+= 1
      log.debug("output \(scanout.index): the renderer has \(failure) a picture")
    }
    if case .success(.shown(let frame)) = result, isStillShown(), fits(frame, scanout) {
      scanout.rendering.frame = frame
      counters.renderedFrames &+= 1
      present(scanout, damage, lock: nil)
      retireRendered(scanout)
      scene.publish()
    }
    guard let owed = scanout.rendering.owed else { return }
    scanout.rendering.owed = nil
    if scanout.resource?.shape != nil { show(owed, on: scanout, nil) }
  }

  // MARK: Buffers

  /// What consumers get of the newest picture on an output; nil where it has to be copied.
  func renderedBuffer(of scanout: Scanout) -> OfferedBuffer? {
    guard let host = scanout.rendering.frame?.buffer,
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
    configuration.mode == .copy
      ? .asked : .pages(scanout.rendering.frame?.buffer.copyReason?.kind)
  }

  /// A renderer may lie.
  private func fits(_ frame: HostFrame, _ scanout: Scanout) -> Bool {
    let layout = frame.buffer.pixels.layout
    return layout.width == scanout.rect.width && layout.height == scanout.rect.height
      && frame.buffer.planes.allSatisfy { $0.stride <= PictureLimits.stride }
  }
}
