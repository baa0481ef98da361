import Buffers
import GuestMemory
import Linux
import Logging
import Scene

// Guest memory that comes and goes under live resources.
extension GPUDevice {
  /// Nanoseconds after which resources whose pages are back wait for the next turn of the event
  /// loop: a front-end may wait for the answer that it has added memory.
  private static let longestRecovery: UInt64 = 4_000_000

  /// Resources keep their pages as long as these are seen through any region. Others lose them:
  /// consumers are told, and see black until the guest shows another picture or the pages return.
  ///
  /// Pages that return are resolved again in as many turns as that takes, and at once where the
  /// guest names the resource: it cannot tell the difference.
  public func memoryChanged(removed: [MemoryRegion]) {
    defer { scene.publish() }
    for resource in resources.values {
      guard let lost = resource.lost, !resource.mayRecover, lost.mayBeBack(in: memory) else {
        continue
      }
      resource.mayRecover = true
      recovering.insert(resource, at: resource.scanouts > 0 ? 0 : recovering.count)
    }
    recoverSome()
    let lost = LostAddresses(memory.takeUncovered())
    guard !removed.isEmpty else { return }
    for resource in resources.values where resource.backing?.isHit(by: lost) == true {
      lose(resource)
    }
  }

  /// Gives resources their pages again, for as long as a turn may take.
  func recoverSome() {
    let began = Clock.now
    var done = 0
    while done < recovering.count {
      let next = recovering[done]
      done += 1
      if next.mayRecover { recover(next) }
      if Clock.now &- began >= Self.longestRecovery { break }
    }
    recovering.removeFirst(min(done, recovering.count))
    if !recovering.isEmpty { recoveryTimer?.arm(after: 1) }
  }

  /// Those that are the renderer's, which may use any of them.
  func recoverRendered() {
    guard !recovering.isEmpty else { return }
    for resource in recovering where resource.mayRecover && resource.shape != nil {
      recover(resource)
    }
  }

  /// Gives a resource its pages again if all of them are there.
  func recover(_ resource: Resource) {
    resource.mayRecover = false
    guard resource.recover(in: memory) else { return }
    if let ranges = resource.backing?.ranges { backRendered(resource, by: ranges) }
    log.info("resource \(resource.id): its guest memory is back")
    showEverywhere(resource)
  }

  private func lose(_ resource: Resource) {
    let wereShown = resource.isBlob || resource.imageIsStale || showsDirectly(resource)
    backRendered(resource, by: nil)
    resource.lose(wereShown: wereShown)
    revoke(resource, .memoryRemoved) {}
    guard resource.scanouts > 0 else { return }
    log.warning("resource \(resource.id) is on screen, and its guest memory was removed")
    if wereShown { showEverywhere(resource) } else { repoint(resource) }
  }
}
