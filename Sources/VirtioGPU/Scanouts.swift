import Buffers
import Fences
import Logging

// SET_SCANOUT, SET_SCANOUT_BLOB and RESOURCE_FLUSH: virtio 1.3 §5.7.6.8.
extension GPUDevice {
  func setScanout(_ request: Request) throws(Response) -> Outcome {
    let scanout = try self.scanout(request.u32(40))
    let id = request.u32(44)
    if id == 0 { return disable(scanout) }
    let resource = try find(id)
    guard !resource.isBlob else { throw .invalidParameter }
    return try show(resource, request.rect(24), on: scanout)
  }

  func setScanoutBlob(_ request: Request) throws(Response) -> Outcome {
    let scanout = try self.scanout(request.u32(40))
    let id = request.u32(44)
    if id == 0 { return disable(scanout) }
    let resource = try find(id)
    guard case .guestBlob(let size) = resource.kind else { throw .invalidParameter }
    guard let fourcc = PixelFormat(rawValue: request.u32(56))?.fourcc else {
      throw .invalidParameter
    }
    let layout = PixelLayout(
      width: request.u32(48), height: request.u32(52), stride: request.u32(64),
      offset: UInt64(request.u32(80)), fourcc: fourcc)
    let limit = configuration.maxDimension
    let rect = request.rect(24)
    guard layout.width > 0, layout.height > 0, layout.width <= limit, layout.height <= limit,
      UInt64(layout.stride) >= UInt64(layout.width) * 4, layout.stride % 4 == 0,
      layout.offset % 4 == 0, layout.size <= size, !rect.isEmpty,
      rect.fits(width: layout.width, height: layout.height)
    else { throw .invalidParameter }
    if resource.setBlobLayout(layout) { relaid(resource, on: scanout) }
    return try show(resource, rect, on: scanout)
  }

  /// A blob has one layout. Where it is on screen already, all of it has changed; outputs whose
  /// part is not in it any more go dark.
  private func relaid(_ resource: Resource, on scanout: Scanout) {
    if resource.exported != nil { withdraw(resource, .unused) {} }
    for other in scanouts where other.resource === resource {
      other.isNew = true
      let (width, height) = (resource.layout.width, resource.layout.height)
      if other !== scanout, !other.rect.fits(width: width, height: height) { _ = disable(other) }
    }
  }

  func scanout(_ index: UInt32) throws(Response) -> Scanout {
    guard let index = Int(exactly: index), scanouts.indices.contains(index) else {
      throw .invalidScanout
    }
    return scanouts[index]
  }

  private func show(
    _ resource: Resource, _ rect: Rect, on scanout: Scanout
  ) throws(Response) -> Outcome {
    guard !rect.isEmpty, rect.fits(width: resource.layout.width, height: resource.layout.height)
    else { throw .invalidParameter }
    let old = scanout.resource
    if scanout.show(resource, rect) {
      dropPool(of: scanout, .unused)
      for sink in sinks { sink.output(scanout.index, resized: (rect.width, rect.height)) }
    }
    if let old, old !== resource { retireOrphan(old) }
    // The first flush finds the buffer made.
    if wantsBuffers, directBufferAllowed(resource) { _ = export(resource) }
    return .done
  }

  func disable(_ scanout: Scanout) -> Outcome {
    let old = scanout.resource
    if scanout.show(nil, scanout.rect) {
      for sink in sinks { sink.output(scanout.index, resized: nil) }
    }
    dropPool(of: scanout, .unused)
    if let old { retireOrphan(old) }
    return .done
  }

  func flush(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let resource = try find(request.u32(40))
    let rect = request.rect(24)
    guard resource.scanouts > 0 else {
      // Nobody sees it; a rectangle outside of the picture is still an error.
      guard resource.isBlob || fits(rect, resource) else { throw .invalidParameter }
      return .done
    }
    guard fits(rect, resource) else { throw .invalidParameter }
    counters.flushes &+= 1
    updatePolicies(resource)
    let hold = exchange.header.isFenced && wantsBuffers ? makeHold(exchange) : nil
    var isSeen = false
    for scanout in scanouts where scanout.resource === resource {
      guard let seen = rect.intersection(scanout.rect) else { continue }
      isSeen = true
      let damage = Rect(
        x: seen.x - scanout.rect.x, y: seen.y - scanout.rect.y, width: seen.width,
        height: seen.height)
      present(scanout, damage, hold: hold)
    }
    if isSeen { postponeTick() }
    guard let hold else { return .done }
    hold.release()
    holds.add(hold)
    holdsFlush = holdsFlush || hold.isPending
    return .later
  }

  private func fits(_ rect: Rect, _ resource: Resource) -> Bool {
    rect.fits(width: resource.layout.width, height: resource.layout.height)
  }

  private func makeHold(_ exchange: Exchange) -> Hold {
    let answer = unanswered.add(exchange)
    return Hold { answer.send(.okNoData) }
  }

  private func updatePolicies(_ resource: Resource) {
    guard configuration.mode == .auto, !resource.isBlob else { return }
    for scanout in scanouts where scanout.resource === resource {
      guard scanout.policy.flushed(resource.id) else { continue }
      let way = scanout.policy.isFlipping ? "directly" : "as copies"
      log.info("output \(scanout.index): showing 2D resources \(way)")
    }
  }
}
