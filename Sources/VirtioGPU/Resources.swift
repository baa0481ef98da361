import Buffers
import Fences
import Logging
import Virtqueue

// Resources: virtio 1.3 §5.7.6.8, "Device Operation: controlq".
extension GPUDevice {
  func find(_ id: UInt32) throws(Response) -> Resource {
    guard let resource = resources[id] else { throw .invalidResource }
    return resource
  }

  private func checkNew(_ id: UInt32) throws(Response) {
    guard id != 0, resources[id] == nil else { throw .invalidResource }
    guard resources.count < configuration.maxResources else { throw refuse(.resources) }
  }

  func createImage(_ request: Request) throws(Response) -> Outcome {
    let id = request.u32(24)
    let width = request.u32(32)
    let height = request.u32(36)
    try checkNew(id)
    let limit = configuration.maxDimension
    guard let fourcc = PixelFormat(rawValue: request.u32(28))?.fourcc, width > 0, height > 0,
      width <= limit, height <= limit
    else { throw .invalidParameter }
    let made = Resource(id: id, width: width, height: height, fourcc: fourcc, budget)
    guard let made else { throw refuse(.memory) }
    resources[id] = made
    return .done
  }

  func createBlob(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let id = request.u32(24)
    try checkNew(id)
    let guestMemory: UInt32 = 1
    guard request.u32(28) == guestMemory else { throw .invalidParameter }
    let size = request.u64(48)
    guard size > 0 else { throw .invalidParameter }
    let backing = try readBacking(exchange.chain, after: 56, count: request.u32(36))
    let resource = Resource(id: id, blobSize: size, budget)
    if let backing {
      guard backing.count >= size else { throw .invalidParameter }
      resource.attach(backing)
    }
    resources[id] = resource
    return .done
  }

  /// Reads and resolves the entries behind a request; nil if there are none.
  private func readBacking(
    _ chain: DescriptorChain, after offset: Int, count: UInt32
  ) throws(Response) -> Backing? {
    guard count <= configuration.maxEntries else { throw refuse(.entries) }
    guard count > 0 else { return nil }
    let bytes = Int(count) * Wire.entrySize
    guard chain.readableCount >= offset + bytes else { throw .invalidParameter }
    var entries: [(address: UInt64, count: UInt32)] = []
    entries.reserveCapacity(Int(count))
    withUnsafeTemporaryAllocation(byteCount: bytes, alignment: 16) { buffer in
      let got = chain.read(into: buffer, offset: offset)
      for start in stride(from: 0, to: got - got % Wire.entrySize, by: Wire.entrySize) {
        entries.append(
          (
            UInt64(littleEndian: buffer.loadUnaligned(fromByteOffset: start, as: UInt64.self)),
            UInt32(littleEndian: buffer.loadUnaligned(fromByteOffset: start + 8, as: UInt32.self))
          ))
      }
    }
    do throws(Response) { return try Backing(entries: entries, in: memory, budget) } catch {
      throw error == .outOfMemory ? refuse(.memory) : error
    }
  }

  func attachBacking(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let resource = try find(request.u32(24))
    guard resource.backing == nil else { throw .unspecified }
    let backing = try readBacking(exchange.chain, after: 32, count: request.u32(28))
    guard let backing else { throw .invalidParameter }
    if case .guestBlob(let size) = resource.kind, backing.count < size {
      throw .invalidParameter
    }
    resource.attach(backing)
    return .done
  }

  func detachBacking(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let resource = try find(request.u32(24))
    guard resource.backing != nil || resource.lost != nil else { throw .unspecified }
    return letGo(of: resource, .rebacked, exchange)
  }

  func unref(_ request: Request, _ exchange: Exchange) throws(Response) -> Outcome {
    let resource = try find(request.u32(24))
    resources[resource.id] = nil
    unshare(resource)
    return letGo(of: resource, .destroyed, exchange)
  }

  /// The guest wants its pages back: the picture survives as a copy, and the answer waits until
  /// nobody reads the pages any more, because the guest reuses them once it has the answer.
  private func letGo(
    of resource: Resource, _ reason: WithdrawReason, _ exchange: Exchange
  ) -> Outcome {
    let isShown = resource.scanouts > 0
    if isShown, resource.backing != nil, resource.imageIsStale || showsDirectly(resource) {
      do throws(Response) { try resource.snapshot() } catch { _ = refuse(.memory) }
    }
    resource.detach()
    guard let buffer = resource.exported else { return .done }
    if reason == .rebacked { resource.predecessor = BufferName(buffer) }
    let answer = unanswered.add(exchange)
    let hold = Hold { answer.send(.okNoData) }
    withdraw(resource, reason) { hold.release() }
    if isShown { showEverywhere(resource) }
    return .later
  }

  func transfer(_ request: Request) throws(Response) -> Outcome {
    let resource = try find(request.u32(48))
    let rect = request.rect(24)
    let offset = request.u64(40)
    if resource.isBlob { return .done }
    guard let backing = resource.backing, !rect.isEmpty,
      rect.fits(width: resource.layout.width, height: resource.layout.height)
    else { throw .invalidParameter }
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
    try keepSnapshot(resource, rect, offset)
    return .done
  }

  private func keepSnapshot(
    _ resource: Resource, _ rect: Rect, _ offset: UInt64
  ) throws(Response) {
    // Transfers that were skipped while the pages were shown directly are made up for here.
    if resource.imageIsStale, !resource.isIrregular {
      try resource.snapshot()
      counters.copiedBytes &+= resource.layout.size
    } else {
      try resource.transfer(rect, offset: offset)
      counters.copiedBytes &+= UInt64(rect.width) &* UInt64(rect.height) &* 4
    }
  }
}
