import Buffers
import Fences
import GPUCommands
import Logging
import Pixels
import Scene

// SET_SCANOUT, SET_SCANOUT_BLOB and RESOURCE_FLUSH: virtio 1.3 §5.7.6.8.
extension GPUDevice {
  func setScanout(_ new: SetScanout) throws(GPUError) -> Outcome {
    let scanout = try self.scanout(new.scanout)
    if new.resource == 0 { return disable(scanout) }
    let resource = try find(new.resource)
    guard !resource.isBlob else { throw .invalidParameter }
    return try show(resource, new.rect, on: scanout)
  }

  func setScanoutBlob(_ new: SetScanoutBlob) throws(GPUError) -> Outcome {
    let scanout = try self.scanout(new.scanout)
    if new.resource == 0 { return disable(scanout) }
    let resource = try find(new.resource)
    guard case .guestBlob(let size) = resource.kind,
      let fourcc = PixelFormat(rawValue: new.format)?.fourcc
    else { throw .invalidParameter }
    let layout = PixelLayout(
      width: new.width, height: new.height, stride: new.stride, offset: UInt64(new.offset),
      fourcc: fourcc)
    let limit = configuration.maxDimension
    let rect = new.rect
    guard layout.width > 0, layout.height > 0, layout.width <= limit, layout.height <= limit,
      UInt64(layout.stride) >= UInt64(layout.width) * 4, layout.stride % 4 == 0,
      layout.stride <= PictureLimits.stride, layout.offset % 4 == 0, layout.size <= size,
      !rect.isEmpty,
      rect.fits(width: layout.width, height: layout.height)
    else { throw .invalidParameter }
    if resource.setBlobLayout(layout) { relaid(resource, on: scanout) }
    return try show(resource, rect, on: scanout)
  }

  /// A blob has one layout. Where it is on screen already, all of it has changed; outputs whose
  /// part is not in it any more go dark.
  private func relaid(_ resource: Resource, on scanout: Scanout) {
    if resource.exported != nil {
      revoke(resource, resource.scanouts > 0 || isSeen(resource) ? .destroyed : .unused) {}
    }
    for other in scanouts where other.resource === resource {
      other.isNew = true
      scene.invalidate(other.index)
      let (width, height) = (resource.layout.width, resource.layout.height)
      if other !== scanout, !other.rect.fits(width: width, height: height) { _ = disable(other) }
    }
  }

  func scanout(_ index: UInt32) throws(GPUError) -> Scanout {
    guard let index = Int(exactly: index), scanouts.indices.contains(index) else {
      throw .invalidScanout
    }
    return scanouts[index]
  }

  private func show(
    _ resource: Resource, _ rect: Rect, on scanout: Scanout
  ) throws(GPUError) -> Outcome {
    guard !rect.isEmpty, rect.fits(width: resource.layout.width, height: resource.layout.height)
    else { throw .invalidParameter }
    let old = scanout.resource
    if scanout.show(resource, rect) {
      scene.resize(scanout.index, to: (rect.width, rect.height))
    } else if scanout.isNew {
      scene.invalidate(scanout.index)
    }
    if let old, old !== resource { retireOrphan(old) }
    if resource.shape == nil { revokeRendered(scanout, .unused) }
    // The first flush finds the buffer made.
    if wantsBuffers, directBufferAllowed(resource) { _ = export(resource) }
    return .done
  }

  func disable(_ scanout: Scanout) -> Outcome {
    let old = scanout.resource
    if scanout.show(nil, scanout.rect) { scene.resize(scanout.index, to: nil) }
    scene.dropCopies(of: scanout.index, .unused)
    revokeRendered(scanout, .unused)
    if let old { retireOrphan(old) }
    return .done
  }

  func flush(_ id: UInt32, _ rect: Rect, _ exchange: Exchange) throws(GPUError) -> Outcome {
    let resource = try find(id)
    // A blob has no size but the scanouts'; what is not on any is nobody's business.
    guard resource.isBlob || fits(rect, resource) else { throw .invalidParameter }
    guard resource.scanouts > 0 else { return .done }
    if resource.shape != nil { return flushRendered(resource, rect, exchange) }
    counters.flushes &+= 1
    updatePolicies(resource)
    if resource.imageIsStale, !resource.isIrregular, !showsDirectly(resource) {
      // Transfers that were not copied while the pages themselves were shown.
      let later = snapshotInParts(of: resource, for: exchange) { [unowned self] in
        showFlushed(resource, rect, exchange)
      }
      if let later { return later }
    }
    return showFlushed(resource, rect, exchange)
  }

  private func showFlushed(_ resource: Resource, _ rect: Rect, _ exchange: Exchange) -> Outcome {
    let hold = exchange.header.isFenced && wantsBuffers ? makeHold(exchange) : nil
    // What was transferred until now, and no more, is shown until the next flush.
    resource.snapshots.hide()
    var isSeen = false
    var isPassedOver = false
    for scanout in scanouts where scanout.resource === resource {
      guard let seen = rect.intersection(scanout.rect) else {
        isPassedOver = true
        continue
      }
      isSeen = true
      let damage = Rect(
        x: seen.x - scanout.rect.x, y: seen.y - scanout.rect.y, width: seen.width,
        height: seen.height)
      present(scanout, damage, lock: hold)
    }
    if isPassedOver {
      // Nobody is shown what the guest may write into from now on.
      for scanout in scanouts where scanout.resource === resource && scanout.hasPicture {
        if rect.intersection(scanout.rect) == nil { repoint(scanout) }
      }
    }
    if isSeen { postponeTick() }
    guard let hold else { return .done }
    flushed = hold
    return .later
  }

  private func fits(_ rect: Rect, _ resource: Resource) -> Bool {
    rect.fits(width: resource.layout.width, height: resource.layout.height)
  }

  /// What keeps the answer to a fenced flush back, and is shortened by younger fences behind it.
  func makeHold(_ exchange: Exchange) -> Hold {
    let answer = answerLater(exchange)
    let hold = Hold { answer.send(.ok) }
    fences.hold(exchange, by: hold)
    return hold
  }

  private func updatePolicies(_ resource: Resource) {
    guard configuration.mode == .auto, resource.kind == .image2D else { return }
    for scanout in scanouts where scanout.resource === resource {
      guard scanout.policy.flushed(resource.id) else { continue }
      let way = scanout.policy.isFlipping ? "directly" : "as copies"
      log.info("output \(scanout.index): showing 2D resources \(way)")
    }
  }
}
