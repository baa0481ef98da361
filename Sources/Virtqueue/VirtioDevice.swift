import GuestMemory
import Linux

/// A virtio device behind whatever transport, which carries its rings and its configuration.
///
/// All calls come in the event loop's thread and must return without waiting: who makes them may
/// hold the whole machine until they return.
public protocol VirtioDevice: AnyObject {
  /// Feature bits that are offered. The transport adds INDIRECT_DESC, EVENT_IDX and VERSION_1.
  var deviceFeatures: UInt64 { get }
  /// How many queues the device has, at most 256.
  var queueCount: Int { get }
  /// The largest size of a queue, a power of two.
  var maxQueueSize: UInt16 { get }

  /// The guest's driver chose these feature bits. May come again, with rings running.
  func featuresNegotiated(_ features: UInt64)

  /// Reads the configuration space.
  ///
  /// - Parameters:
  ///   - offset: bytes from its start.
  ///   - count: bytes, at most 256.
  /// - Returns: exactly `count` bytes, or nil to report an error.
  func readConfig(offset: UInt32, count: UInt32) -> [UInt8]?

  /// The driver wrote to the configuration space; what does not fit is the device's to ignore.
  func writeConfig(offset: UInt32, bytes: [UInt8])

  /// A queue may be served from now on; a call of ``queueKicked(_:)`` follows.
  func queueStarted(_ index: Int, _ queue: VirtioQueue)

  /// A queue must not be touched any more once this returns.
  ///
  /// Requests in flight must have been pushed by then: after a pause the guest still waits for
  /// them, and the transport goes on after the last one that was popped.
  func queueStopped(_ index: Int)

  /// The driver made requests available.
  func queueKicked(_ index: Int)

  /// The table of guest memory changed, while the machine is there.
  ///
  /// - Parameter removed: regions that are not there any more. Their files stay mapped as long
  ///   as anybody holds them.
  func memoryChanged(removed: [MemoryRegion])

  /// The machine was reset: all rings have been stopped, all state goes back to the beginning.
  func deviceReset()

  /// A machine has connected.
  ///
  /// - Parameter registry: takes the names of objects that other devices may ask for, until
  ///   ``disconnected()``.
  func connected(_ registry: any SharedObjectRegistry)

  /// The dma-buf behind a name that was announced (vhost-user's GET_SHARED_OBJECT).
  ///
  /// - Parameter id: nil from those who do not tell which one they want.
  /// - Returns: nil if there is none.
  func sharedObject(_ id: SharedObjectID?) -> SharedFD?

  /// The machine is gone. All queues have been stopped and all memory has been removed.
  func disconnected()
}

extension VirtioDevice {
  /// Does nothing.
  public func writeConfig(offset: UInt32, bytes: [UInt8]) {}
  /// Does nothing.
  public func memoryChanged(removed: [MemoryRegion]) {}
  /// Does nothing.
  public func connected(_ registry: any SharedObjectRegistry) {}
  /// Nothing is shared.
  public func sharedObject(_ id: SharedObjectID?) -> SharedFD? { nil }
}
