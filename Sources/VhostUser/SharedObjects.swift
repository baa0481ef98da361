import Linux
import Logging
import Virtqueue

extension VhostUserSession: SharedObjectRegistry {
  /// `VHOST_USER_BACKEND_SHARED_OBJECT_ADD`.
  public func announce(_ id: SharedObjectID) { tell(.sharedObjectAdd, id) }

  /// `VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE`.
  public func retract(_ id: SharedObjectID) { tell(.sharedObjectRemove, id) }

  /// Never waits: a front-end that does not read what it is told is not told any more.
  private func tell(_ request: BackEndRequest, _ id: SharedObjectID) {
    guard protocolFeatures.contains([.sharedObject, .backEndRequest]), let backendChannel
    else { return }
    let message = VhostUserMessage(
      request: request.rawValue, flags: VhostUserHeader.version, payload: id.bytes
    ).encoded
    do throws(Errno) {
      let sent = try message.withUnsafeBufferPointer { bytes throws(Errno) in
        try UnixSocket.send(backendChannel.raw, UnsafeRawBufferPointer(bytes), dontWait: true)
      }
      if sent < message.count { self.backendChannel = nil }
    } catch {
      logger.warning("the front-end cannot be told of shared object \(id): \(error)")
      self.backendChannel = nil
    }
  }
}
