import GuestMemory
import Linux
import Logging
import Virtqueue

/// Features, memory and resets.
extension VhostUserSession {
  func setFeatures(_ bits: UInt64) throws(VhostUserError) {
    let surplus = bits & ~(device.deviceFeatures | VirtioFeature.offered | VirtioFeature.harmless)
    guard surplus == 0 else {
      throw .unsupportedFeatures(VirtioFeature.names(of: surplus))
    }
    features = bits & ~VirtioFeature.protocolFeatures
    device.featuresNegotiated(features)
    // Front-ends without protocol features have no message to enable a ring.
    guard bits & VirtioFeature.protocolFeatures == 0 else { return }
    for vring in vrings {
      vring.isEnabled = true
      startIfReady(vring)
    }
  }

  func setMemoryTable(
    _ regions: [(region: MemoryRegion, fd: SharedFD)]
  ) throws(VhostUserError) {
    let old = memory.entries.map(\.region)
    do throws(MemoryError) {
      try memory.replace(regions)
    } catch { throw .memory("\(error)") }
    let new = memory.entries.map(\.region)
    changed(removed: old.filter { !new.contains($0) })
  }

  func addRegion(_ region: MemoryRegion, _ fd: SharedFD) throws(VhostUserError) {
    do throws(MemoryError) {
      try memory.add(region, fd)
    } catch { throw .memory("\(error)") }
    changed(removed: [])
  }

  func removeRegion(_ region: MemoryRegion) throws(VhostUserError) {
    do throws(MemoryError) {
      try memory.remove(region)
    } catch { throw .memory("\(error)") }
    changed(removed: [region])
  }

  private func changed(removed: [MemoryRegion]) {
    device.memoryChanged(removed: removed)
    // A device that did not ask has no use for it.
    _ = memory.takeUncovered()
    for vring in vrings where vring.isParked && vring.queue != nil {
      vring.isParked = false
      device.queueKicked(vring.index)
    }
  }

  func reset() {
    for vring in vrings {
      stop(vring)
      vring.base = 0
      vring.stoppedAt = nil
      vring.isEnabled = false
      vring.kick = .none
      vring.isBroken = false
    }
    status = 0
    device.deviceReset()
  }
}
