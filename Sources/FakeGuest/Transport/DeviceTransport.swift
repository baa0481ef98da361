/// How a driver reaches its device: features, configuration, rings and bells.
package protocol DeviceTransport: AnyObject {
  /// The memory that the device sees.
  var ram: GuestRAM { get }
  /// What the device offers, virtio 1.3 §2.2.
  func deviceFeatures() throws(GuestError) -> UInt64
  /// Accepts features, hands the rings over and sets the device going (`DRIVER_OK`).
  func start(features: UInt64, queues: [SplitRing]) throws(GuestError)
  /// Tells the device that a queue has something for it.
  func kick(_ queue: Int) throws(GuestError)
  /// Waits until the device calls for a queue, or some milliseconds have passed.
  ///
  /// It may return early; the caller looks at the ring again.
  func waitForCall(_ queue: Int, milliseconds: Int) throws(GuestError)
  /// Reads the device's configuration space.
  func readConfig(offset: Int, count: Int) throws(GuestError) -> [UInt8]
  /// Writes the device's configuration space.
  func writeConfig(offset: Int, _ bytes: [UInt8]) throws(GuestError)
  /// Resets the device; rings are gone until the next ``start(features:queues:)``.
  func reset() throws(GuestError)
}
