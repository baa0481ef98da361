import Buffers
import Fences
import GPUCommands
import Logging
import Pixels
import Virtqueue

// Resources: virtio 1.3 §5.7.6.8, "Device Operation: controlq".
extension GPUDevice {
  func find(_ id: UInt32) throws(GPUError) -> Resource {
    guard let resource = resources[id] else { throw .invalidResource }
    if resource.mayRecover { recover(resource) }
    return resource
  }

  func checkNew(_ id: UInt32) throws(GPUError) {
    guard id != 0, resources[id] == nil else { throw .invalidResource }
    guard resources.count < configuration.maxResources else { throw refuse(.resources) }
  }

  func createImage(_ new: CreateImage) throws(GPUError) -> Outcome {
    try checkNew(new.resource)
    let limit = configuration.maxDimension
    guard let fourcc = PixelFormat(rawValue: new.format)?.fourcc, new.width > 0, new.height > 0,
      new.width <= limit, new.height <= limit
    else { throw .invalidParameter }
    let made = Resource(
      id: new.resource, width: new.width, height: new.height, fourcc: fourcc, budget)
    guard let made else { throw refuse(.memory) }
    resources[new.resource] = made
    return .done
  }

  func createBlob(_ new: CreateBlob, _ exchange: Exchange) throws(GPUError) -> Outcome {
    try checkNew(new.resource)
    guard new.memory == CreateBlob.guestMemory, new.size > 0 else { throw .invalidParameter }
    let backing = try readBacking(exchange.chain, new.entries)
    let resource = Resource(id: new.resource, blobSize: new.size, budget)
    if let backing {
      guard backing.count >= new.size else { throw .invalidParameter }
      resource.attach(backing)
    }
    resources[new.resource] = resource
    return .done
  }

  /// Reads and resolves the entries behind a request; nil if there are none.
  func readBacking(
    _ chain: DescriptorChain, _ listed: MemoryEntries
  ) throws(GPUError) -> Backing? {
    guard listed.count <= configuration.maxEntries else { throw refuse(.entries) }
    guard listed.count > 0 else { return nil }
    let bytes = listed.byteCount
    guard chain.readableCount >= listed.offset + bytes else { throw .invalidParameter }
    let entries = withUnsafeTemporaryAllocation(byteCount: bytes, alignment: 16) { buffer in
      let got = chain.read(into: buffer, offset: listed.offset)
      return MemoryEntries.decode(UnsafeRawBufferPointer(rebasing: buffer.prefix(got)))
    }
    do throws(GPUError) { return try Backing(entries: entries, in: memory, budget) } catch {
      throw error == .outOfMemory ? refuse(.memory) : error
    }
  }

  func attachBacking(
    _ id: UInt32, _ entries: MemoryEntries, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    let resource = try find(id)
    guard resource.backing == nil else { throw .unspecified }
    guard let backing = try readBacking(exchange.chain, entries) else { throw .invalidParameter }
    if resource.shape != nil { return try attach(backing, toRendered: resource, exchange) }
    if case .guestBlob(let size) = resource.kind, backing.count < size {
      throw .invalidParameter
    }
    resource.attach(backing)
    return .done
  }

  func detachBacking(_ id: UInt32, _ exchange: Exchange) throws(GPUError) -> Outcome {
    let resource = try find(id)
    guard resource.backing != nil || resource.lost != nil else { throw .unspecified }
    if resource.shape != nil { return detachRendered(resource, exchange) }
    return letGo(of: resource, .rebacked, exchange)
  }

  func unref(_ id: UInt32, _ exchange: Exchange) throws(GPUError) -> Outcome {
    let resource = try find(id)
    resources[resource.id] = nil
    unshare(resource)
    if resource.shape != nil { return unrefRendered(resource, exchange) }
    return letGo(of: resource, .destroyed, exchange)
  }

  /// The guest wants its pages back: the picture survives as a copy, and the answer waits until
  /// nobody reads the pages any more, because the guest reuses them once it has the answer.
  private func letGo(
    of resource: Resource, _ reason: RevocationReason, _ exchange: Exchange
  ) -> Outcome {
    if resource.scanouts > 0, resource.backing != nil,
      resource.imageIsStale || showsDirectly(resource)
    {
      let later = snapshotInParts(of: resource, for: exchange) { [unowned self] in
        letGoOfPages(of: resource, reason, exchange)
      }
      if let later { return later }
      do throws(GPUError) { try resource.snapshot() } catch { _ = refuse(.memory) }
    }
    return letGoOfPages(of: resource, reason, exchange)
  }

  private func letGoOfPages(
    of resource: Resource, _ reason: RevocationReason, _ exchange: Exchange
  ) -> Outcome {
    let isShown = resource.scanouts > 0
    resource.detach()
    if isShown { repoint(resource) }
    if reason == .destroyed { resource.settle() }
    guard resource.exported != nil || resource.revocations > 0 else { return .done }
    let answer = answerLater(exchange)
    let hold = Hold { answer.send(.ok) }
    revoke(resource, reason) { hold.release() }
    if isShown { showEverywhere(resource) }
    return .later
  }

  func transfer(_ transfer: Transfer2D, _ exchange: Exchange) throws(GPUError) -> Outcome {
    let resource = try find(transfer.resource)
    let (rect, offset) = (transfer.rect, transfer.offset)
    if resource.isBlob { return .done }
    if resource.shape != nil { return try execute3D(transfer.in3D, exchange) }
    guard let backing = resource.backing,
      rect.fits(width: resource.layout.width, height: resource.layout.height)
    else { throw .invalidParameter }
    // Nothing to copy, from wherever; QEMU's devices take it as RESOURCE_FLUSH does.
    if rect.isEmpty { return .done }
    let stride = UInt64(resource.layout.stride)
    let reach = stride * UInt64(rect.height &- 1) &+ UInt64(rect.width) * 4
    let (end, overflow) = offset.addingReportingOverflow(reach)
    guard !overflow, end <= backing.count else { throw .invalidParameter }
    let usual = UInt64(rect.y) * stride &+ UInt64(rect.x) * 4
    if offset != usual { resource.isIrregular = true }
    if showsDirectly(resource) {
      resource.imageIsStale = true
      return .done
    }
    counters.transfers &+= 1
    return try keepSnapshot(resource, rect, offset, exchange)
  }

  private func keepSnapshot(
    _ resource: Resource, _ rect: Rect, _ offset: UInt64, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    // Transfers that were skipped while the pages were shown directly are made up for here.
    let isSnapshot = resource.imageIsStale && !resource.isIrregular
    let part = isSnapshot ? resource.whole : rect
    try prepare(resource, part)
    let bytes = part.area &* 4 &+ resource.snapshots.owed(before: part)
    if bytes > LongTransfer.least {
      let answer = answerLater(exchange)
      let transfer = LongTransfer(resource, rect, offset: offset, isSnapshot: isSnapshot) {
        answer.send($0)
      }
      longTransfer = (transfer, exchange.queue)
      counters.copiedBytes &+= bytes
      return .later
    }
    if isSnapshot { try resource.snapshot() } else { try resource.transfer(rect, offset: offset) }
    counters.copiedBytes &+= bytes
    return .done
  }
}
