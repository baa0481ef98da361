import Buffers
import GPUCommands
import GuestMemory
import Logging
import Virtqueue

// 3D: virtio 1.3 §5.7.6.8. The device judges and keeps the tables, the renderer draws.
extension GPUDevice {
  var offers3D: Bool { !(renderer?.capsets.isEmpty ?? true) }

  func capsetInfo(_ index: UInt32) throws(GPUError) -> Outcome {
    guard let sets = renderer?.capsets, let index = Int(exactly: index), index < sets.count else {
      throw .invalidParameter
    }
    let set = sets[index]
    return .reply(
      .capsetInfo(
        id: set.id, maxVersion: set.maxVersion, maxSize: UInt32(clamping: set.data.count)))
  }

  func capset(_ id: UInt32, _ version: UInt32) throws(GPUError) -> Outcome {
    guard let set = renderer?.capsets.first(where: { $0.id == id }), version <= set.maxVersion
    else { throw .invalidParameter }
    return .reply(.capset(set.data))
  }

  /// Runs a request that is the renderer's.
  func execute3D(_ command: GPUCommand, _ exchange: Exchange) throws(GPUError) -> Outcome {
    guard offers3D, let renderer else { throw .unspecified }
    guard renderer.isAlive else { throw lost() }
    // Commands in a buffer name resources that nobody looks for here.
    recoverRendered()
    switch command {
    case .createContext(let new): return try createContext(new, exchange)
    case .destroyContext(let id):
      try requireContext(id)
      rendered.remove(id)
      return ask(.destroyContext(id), exchange)
    case .attachToContext(let context, let id): return try attach(id, to: context, exchange)
    case .detachFromContext(let context, let id): return try detach(id, from: context, exchange)
    case .createResource(let id, let shape): return try createResource(id, shape, exchange)
    case .transfer3D(let transfer, let toHost):
      try check(transfer)
      return ask(.transfer(transfer, toHost: toHost), exchange)
    case .submit(let context, let bytes): return try submit(bytes, in: context, exchange)
    default: throw .unspecified
    }
  }

  /// Asks the renderer; the answer to the guest comes when it is done, and for a fenced request
  /// when all that was asked before in its context has been drawn.
  ///
  /// - Parameter undo: runs if it was not done.
  private func ask(
    _ operation: RenderOperation, _ exchange: Exchange, undo: @escaping () -> Void = {}
  ) -> Outcome {
    guard let renderer else { return .reply(.error(.unspecified)) }
    rendered.isUsed = true
    let answer = answerLater(exchange)
    let header = exchange.header
    var isDone = false
    renderer.perform(operation) { [weak self] result in
      switch result {
      case .success: isDone = true
      case .failure(let failure):
        self?.failed(failure, header)
        undo()
      }
      if !header.isFenced { answer.send(isDone ? .ok : .error(.unspecified)) }
    }
    guard header.isFenced else { return .later }
    let context = rendered.has(header.context) ? header.context : 0
    renderer.perform(.fence(context: context, ring: header.hasRing ? header.ring : nil)) { result in
      if case .failure = result { isDone = false }
      answer.send(isDone ? .ok : .error(.unspecified))
    }
    return .later
  }

  private func failed(_ failure: RenderFailure, _ header: GPUHeader) {
    counters.errors &+= 1
    counters.renderFailures &+= 1
    log.debug(
      "the renderer has \(failure) command 0x\(String(header.type, radix: 16)) of context \(header.context)"
    )
  }

  private func lost() -> GPUError {
    counters.renderFailures &+= 1
    return .unspecified
  }

  // MARK: Contexts

  private func requireContext(_ id: UInt32) throws(GPUError) {
    guard rendered.has(id) else { throw .invalidContext }
  }

  private func createContext(_ new: CreateContext, _ exchange: Exchange) throws(GPUError) -> Outcome
  {
    let id = new.context
    guard id != 0, !rendered.has(id) else { throw .invalidContext }
    guard rendered.count < configuration.maxContexts else { throw refuse(.contexts) }
    let serial = rendered.add(id)
    // Nobody was offered VIRTIO_GPU_F_CONTEXT_INIT: the context's flags mean nothing.
    return ask(.createContext(id, capset: 0, name: new.name), exchange) { [weak self] in
      self?.rendered.remove(id, serial: serial)
    }
  }

  /// What lies in guest memory alone can be attached, as Linux does with all that a program opens,
  /// but commands cannot name it.
  private func attach(
    _ id: UInt32, to context: UInt32, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    try requireContext(context)
    let resource = try find(id)
    guard resource.shape != nil, !resource.isLost, rendered.attach(id, to: context) else {
      return .done
    }
    return ask(.attach(resource: id, context: context), exchange) { [weak self] in
      _ = self?.rendered.detach(id, from: context)
    }
  }

  private func detach(
    _ id: UInt32, from context: UInt32, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    try requireContext(context)
    _ = try find(id)
    guard rendered.detach(id, from: context) else { return .done }
    return ask(.detach(resource: id, context: context), exchange)
  }

  private func submit(
    _ bytes: CommandBytes, in context: UInt32, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    try requireContext(context)
    let count = Int(bytes.count)
    guard bytes.count <= configuration.maxSubmit else { throw .outOfMemory }
    guard count % 4 == 0, exchange.chain.readableCount - bytes.offset >= count else {
      throw .invalidParameter
    }
    counters.submits &+= 1
    let stream = CommandStream(exchange.chain, offset: bytes.offset, count: count)
    return ask(.submit(context: context, stream), exchange)
  }

  // MARK: Resources

  private func createResource(
    _ id: UInt32, _ shape: ResourceShape, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    try checkNew(id)
    guard shape.isSound(limit: configuration.maxDimension) else { throw .invalidParameter }
    guard let share = rendered.memory.take(shape.reckonedSize) else { throw refuse(.rendering) }
    let resource = Resource(id: id, shape, fourcc: shape.shownAs, budget, share)
    resources[id] = resource
    return ask(.createResource(id, shape), exchange) { [weak self] in
      resource.isLost = true
      if self?.resources[id] === resource { self?.resources[id] = nil }
    }
  }

  private func check(_ transfer: Transfer3D) throws(GPUError) {
    if transfer.context != 0 { try requireContext(transfer.context) }
    let resource = try find(transfer.resource)
    guard let shape = resource.shape, !resource.isLost, let backing = resource.backing,
      shape.holds(transfer.box, level: transfer.level), transfer.offset <= backing.count
    else { throw .invalidParameter }
  }

  func attach(
    _ backing: Backing, toRendered resource: Resource, _ exchange: Exchange
  ) throws(GPUError) -> Outcome {
    resource.attach(backing)
    guard isThere(resource) else { return .done }
    return ask(.attachBacking(resource.id, backing.ranges), exchange)
  }

  /// The guest reuses the pages once it has the answer, so that comes when nobody touches them.
  func detachRendered(_ resource: Resource, _ exchange: Exchange) -> Outcome {
    let wasBacked = resource.backing != nil
    resource.detach()
    guard wasBacked, isThere(resource) else { return .done }
    return ask(.detachBacking(resource.id), exchange)
  }

  /// The picture stays on screen, as the renderer drew it last.
  func unrefRendered(_ resource: Resource, _ exchange: Exchange) -> Outcome {
    rendered.forget(resource.id)
    let wasBacked = resource.backing != nil
    resource.detach()
    guard isThere(resource) else { return .done }
    if wasBacked { renderer?.perform(.detachBacking(resource.id)) { _ in } }
    resource.isLost = true
    return ask(.destroyResource(resource.id), exchange)
  }

  /// Guest memory came or went under a resource of the renderer's.
  func backRendered(_ resource: Resource, by ranges: [FileRange]?) {
    guard resource.shape != nil, isThere(resource), let renderer else { return }
    renderer.perform(ranges.map { .attachBacking(resource.id, $0) } ?? .detachBacking(resource.id))
    {
      _ in
    }
  }

  private func isThere(_ resource: Resource) -> Bool {
    !resource.isLost && (renderer?.isAlive ?? false)
  }

  // MARK: Life

  /// The guest starts anew.
  func resetRendering() {
    rendered.removeAll()
    // The pictures on their way end now: what was to follow them is not there any more.
    for scanout in scanouts {
      scanout.rendering.owed = nil
      scanout.rendering.cursor = nil
    }
    guard rendered.isUsed else { return }
    rendered.isUsed = false
    renderer?.reset()
  }
}

extension GPUDevice: RendererClient {
  /// From the budget that pays for snapshots and copies, too.
  public func hostMemory(_ bytes: UInt64) -> AnyObject? {
    if let share = budget.take(bytes) { return share }
    _ = refuse(.memory)
    return nil
  }

  /// The guest has lost its contexts and 3D resources, and nothing else: pictures stay on screen.
  public func rendererDied(_ why: String) {
    log.warning("3D: \(why); the guest's contexts are lost, 2D goes on")
    rendered.removeAll()
    for resource in resources.values where resource.shape != nil { resource.isLost = true }
    for scanout in scanouts {
      scanout.rendering.owed = nil
      scanout.resource.map { if $0.shape != nil { $0.isLost = true } }
    }
  }
}
