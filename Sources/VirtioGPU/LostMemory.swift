import Buffers
import GuestMemory
import Logging
import Scene

// Guest memory that comes and goes under live resources.
extension GPUDevice {
  /// Resources keep their pages as long as these are seen through any region. Others lose them:
  /// consumers are told, and see black until the guest shows another picture or the pages return.
  public func memoryChanged(removed: [MemoryRegion]) {
    defer { scene.publish() }
    for resource in resources.values where resource.lost != nil {
      guard resource.recover(in: memory) else { continue }
      if let ranges = resource.backing?.ranges { backRendered(resource, by: ranges) }
      log.info("resource \(resource.id): its guest memory is back")
      showEverywhere(resource)
    }
    let lost = LostAddresses(memory.takeUncovered())
    guard !removed.isEmpty else { return }
    for resource in resources.values where resource.backing?.isHit(by: lost) == true {
      lose(resource)
    }
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
