import Buffers
import GPUCommands
import Linux
import Virtqueue

// RESOURCE_ASSIGN_UUID (virtio 1.3 §5.7.6.8): a resource's dma-buf for other devices.
extension GPUDevice {
  func assignUUID(_ resource: UInt32) throws(GPUError) -> Outcome {
    let resource = try find(resource)
    let id = resource.objectID ?? .random()
    if resource.objectID == nil {
      resource.objectID = id
      shared[id] = resource
      registry?.announce(id)
    }
    return .reply(.uuid(id.bytes))
  }

  /// The guest destroyed a resource.
  func unshare(_ resource: Resource) {
    guard let id = resource.objectID else { return }
    resource.objectID = nil
    resource.isImported = false
    shared[id] = nil
    registry?.retract(id)
  }

  /// Other devices are served through this registry.
  public func connected(_ registry: any SharedObjectRegistry) { self.registry = registry }

  /// The dma-buf over a resource's present pages; nil where they have to be copied.
  ///
  /// Also nil while other devices keep pages that were taken back. After a discard the next call
  /// returns the next generation. Who asks without a name gets the
  /// only object there is.
  public func sharedObject(_ id: SharedObjectID?) -> SharedFD? {
    let only = shared.count == 1 ? shared.values.first : nil
    guard let resource = id.map({ shared[$0] }) ?? only else { return nil }
    if resource.mayRecover { recover(resource) }
    if resource.exported != nil, verify(resource) { showEverywhere(resource) }
    // Who did not let go of pages that were taken back gets no others meanwhile.
    guard !otherDevices.keepsPages, let buffer = export(resource) else { return nil }
    resource.isImported = true
    buffer.given(to: otherDevices)
    return buffer.fd
  }
}
