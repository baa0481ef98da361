import Buffers
import Fences
import GuestMemory
import Linux
import Logging
import Scene

// dma-bufs over the guest's pages: made when shown, checked, rebuilt, and let go.
extension GPUDevice {
  /// dma-bufs at a time, of pictures that are on screen or were a moment ago.
  static let mostOnOffer = 64
  /// Nanoseconds for which a picture is copied after a reason that may pass.
  private static let copyTime: UInt64 = 100_000_000

  /// The dma-buf of a resource, made now if need be; nil if it has to be copied.
  func export(_ resource: Resource) -> OfferedBuffer? {
    if resource.exported == nil {
      guard resource.copyReason == nil, let backing = resource.backing else { return nil }
      let (layout, ranges) = backing.window(resource.layout)
      switch store.make(layout: layout, ranges: ranges, after: resource.predecessor) {
      case .success(let buffer):
        resource.predecessor = nil
        resource.lookedAt = Clock.now
        resource.exported = buffer
        makeRoom()
        exporting.append(resource)
        updateTimer()
        log.debug(
          "resource \(resource.id): buffer \(buffer.id) shows guest pages \(backing.description)")
      case .failure(let reason):
        fallBack(resource, reason)
        return nil
      }
    }
    resource.lastShown = ticks
    return resource.exported?.current
  }

  /// A guest that shows thousands of pictures in turn has a bounded number of them on offer: each
  /// takes a descriptor here and at every consumer.
  private func makeRoom() {
    guard exporting.count >= Self.mostOnOffer else { return }
    let idle = exporting.filter { $0.scanouts == 0 && !$0.isImported && !isSeen($0) }
    guard let oldest = idle.min(by: { $0.lastShown < $1.lastShown }) else { return }
    revoke(oldest, .unused) {}
  }

  /// Whether a consumer that is behind still has a resource's dma-buf on its screen, which is not to
  /// be taken away as unused: such a consumer has the pages in any case, and at most one such buffer
  /// for each output.
  func isSeen(_ resource: Resource) -> Bool {
    resource.exported?.current.map { scene.isSeen($0) } ?? false
  }

  private func fallBack(_ resource: Resource, _ reason: CopyReason) {
    resource.copyReason = reason
    resource.copiedSince = Clock.now
    // The pages were shown until now, so transfers were not copied.
    if !resource.isBlob { resource.imageIsStale = true }
  }

  /// Tries guest pages again some time after discards outran a build.
  private func forgive(_ resource: Resource) {
    guard let reason = resource.copyReason, reason.isTransient,
      Clock.now &- resource.copiedSince > Self.copyTime
    else { return }
    resource.copyReason = nil
  }

  /// Looks whether the pages under a resource's dma-buf are still the guest's. A generation that
  /// lost some is revoked before the next one is made.
  ///
  /// - Returns: true if the buffer was rebuilt or given up, so that all of it must be shown.
  func verify(_ resource: Resource) -> Bool {
    guard let buffer = resource.exported else {
      forgive(resource)
      return false
    }
    resource.lookedAt = Clock.now
    switch store.look(at: buffer) {
    case .intact:
      return false
    case .discarded(let revocation, let pages):
      counters.discards &+= 1
      return renew(resource, revoke(revocation, of: resource, .discarded) {}, pages)
    case .unknown(let revocation, let reason):
      counters.discards &+= 1
      giveUp(resource, revoke(revocation, of: resource, .discarded) {}.name, reason)
      return true
    case .reported(let shown, let pages, let spans):
      counters.discards &+= 1
      log.warning(
        """
        \(place(of: resource)): \(pages) pages of buffer \(shown.id).\(shown.generation) were \
        discarded and still show what was there before, at file offsets \(describe(spans))
        """)
      return false
    }
  }

  /// Makes the next generation after a discard, where anything shows the resource; else that comes
  /// when something does.
  private func renew(_ resource: Resource, _ revoked: consuming Revoked, _ pages: Int) -> Bool {
    let old = revoked.name
    let what = "\(pages) pages of buffer \(old) were discarded"
    guard resource.scanouts > 0 || resource.isImported else {
      log.info("\(place(of: resource)): \(what)")
      resource.predecessor = old
      revoke(resource, .discarded) {}
      return false
    }
    switch store.rebuild(revoked) {
    case .success(let new):
      log.info(
        "\(place(of: resource)): \(what), generation \(new.generation) has the guest's new ones")
    case .failure(let reason): giveUp(resource, old, reason)
    }
    return true
  }

  private func giveUp(_ resource: Resource, _ old: BufferName, _ reason: CopyReason) {
    log.warning("\(place(of: resource)): buffer \(old) lost: \(reason)")
    fallBack(resource, reason)
    revoke(resource, .discarded) {}
  }

  /// Where a resource is seen, for the log.
  private func place(of resource: Resource) -> String {
    let outputs = scanouts.filter { $0.resource === resource }.map { "\($0.index)" }
    let place = outputs.isEmpty ? "off screen" : "on output \(outputs.joined(separator: ", "))"
    return "resource \(resource.id) \(place)"
  }

  /// Runs of pages as OFFSET+LENGTH, the first few of them.
  private func describe(_ spans: [PageSpan]) -> String {
    let few = spans.prefix(8).map { "\($0.offset)+\($0.count)" }.joined(separator: ",")
    return spans.count > 8 ? few + " and \(spans.count - 8) more" : few
  }

  /// Takes a resource's dma-buf from everybody and unpins its pages.
  ///
  /// - Parameter released: runs once no sink uses the buffer any more.
  func revoke(
    _ resource: Resource, _ reason: RevocationReason, _ released: @escaping () -> Void
  ) {
    guard let buffer = resource.exported else { return resource.whenRevoked(released) }
    resource.exported = nil
    exporting.removeAll { $0 === resource }
    updateTimer()
    guard let revocation = store.release(buffer) else { return resource.whenRevoked(released) }
    let revoked = revoke(revocation, of: resource, reason, released)
    // The same picture in other pages is its next generation.
    if reason == .rebacked { resource.predecessor = revoked.name }
  }

  /// Takes a generation of a resource's dma-buf from everybody.
  ///
  /// - Parameter released: runs once no sink uses it, or an earlier generation, any more.
  private func revoke(
    _ revocation: consuming Revocation, of resource: Resource, _ reason: RevocationReason,
    _ released: @escaping () -> Void
  ) -> Revoked {
    resource.revocations += 1
    let revoked = scene.revoke(revocation, reason) { resource.revoked() }
    resource.whenRevoked(released)
    return revoked
  }

  /// A resource left the screen: if the guest destroyed it meanwhile, so does its buffer.
  func retireOrphan(_ resource: Resource) {
    guard resource.scanouts == 0, resources[resource.id] !== resource else { return }
    revoke(resource, .destroyed) {}
  }
}
