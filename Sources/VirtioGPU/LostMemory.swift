import Buffers
import GuestMemory
import Logging
import VhostUser

// Guest memory that comes and goes under live resources.
extension GPUDevice {
  /// Resources keep their pages as long as these are seen through any region. Others lose them:
  /// consumers are told, and see black until the guest shows another picture or the pages return.
  public func memoryChanged(removed: [MemoryRegion]) {
    for resource in resources.values where resource.lost != nil {
      guard resource.recover(in: memory) else { continue }
      log.info("resource \(resource.id): its guest memory is back")
      showEverywhere(resource)
    }
    guard !removed.isEmpty else { return }
    for resource in resources.values {
      guard let backing = resource.backing, !backing.isIntact(in: memory) else { continue }
      lose(resource)
    }
  }

  private func lose(_ resource: Resource) {
    let wereShown = resource.isBlob || resource.imageIsStale || showsDirectly(resource)
    resource.lose(wereShown: wereShown)
    withdraw(resource, .memoryRemoved) {}
    guard resource.scanouts > 0 else { return }
    log.warning("resource \(resource.id) is on screen, and its guest memory was removed")
    if wereShown { showEverywhere(resource) }
  }
}
