/// Feature bits that belong to the transport, not to a device (virtio 1.3, 6).
public enum VirtioFeature {
  /// `VIRTIO_F_NOTIFY_ON_EMPTY` of legacy devices.
  public static let notifyOnEmpty: UInt64 = 1 << 24
  /// `VIRTIO_F_ANY_LAYOUT` of legacy devices.
  public static let anyLayout: UInt64 = 1 << 27
  /// `VIRTIO_F_INDIRECT_DESC`.
  public static let indirectDescriptors: UInt64 = 1 << 28
  /// `VIRTIO_F_EVENT_IDX`.
  public static let eventIndex: UInt64 = 1 << 29
  /// `VHOST_USER_F_PROTOCOL_FEATURES`, between front-end and back-end only.
  public static let protocolFeatures: UInt64 = 1 << 30
  /// `VIRTIO_F_VERSION_1`.
  public static let version1: UInt64 = 1 << 32
  /// `VIRTIO_F_ACCESS_PLATFORM`.
  public static let accessPlatform: UInt64 = 1 << 33
  /// `VIRTIO_F_RING_PACKED`.
  public static let ringPacked: UInt64 = 1 << 34
  /// `VIRTIO_F_IN_ORDER`.
  public static let inOrder: UInt64 = 1 << 35
  /// `VIRTIO_F_ORDER_PLATFORM`.
  public static let orderPlatform: UInt64 = 1 << 36
  /// `VIRTIO_F_SR_IOV`.
  public static let singleRootIOV: UInt64 = 1 << 37
  /// `VIRTIO_F_NOTIFICATION_DATA`.
  public static let notificationData: UInt64 = 1 << 38
  /// `VIRTIO_F_RING_RESET`.
  public static let ringReset: UInt64 = 1 << 40

  /// What every session offers beside the device's own bits.
  static let offered = indirectDescriptors | eventIndex | protocolFeatures | version1

  /// Bits that a guest may have taken although nobody offered them here: QEMU offers its own
  /// transport's bits to the guest. None of these changes anything for a split ring.
  static let harmless =
    notifyOnEmpty | anyLayout | orderPlatform | singleRootIOV | notificationData | ringReset

  /// The names of the bits, for messages.
  static func names(of bits: UInt64) -> String {
    let known: [(UInt64, String)] = [
      (accessPlatform, "ACCESS_PLATFORM"), (ringPacked, "RING_PACKED"), (inOrder, "IN_ORDER"),
    ]
    let names = (0..<64).compactMap { bit -> String? in
      let mask: UInt64 = 1 << UInt64(bit)
      guard bits & mask != 0 else { return nil }
      return known.first { $0.0 == mask }.map { "\($0.1) (bit \(bit))" } ?? "bit \(bit)"
    }
    return names.joined(separator: ", ")
  }
}

/// `VHOST_USER_PROTOCOL_F_*` (docs/interop/vhost-user.rst, "Protocol features").
package struct ProtocolFeatures: OptionSet, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package static let multiQueue = ProtocolFeatures(rawValue: 1 << 0)
  package static let logSharedMemory = ProtocolFeatures(rawValue: 1 << 1)
  package static let replyAck = ProtocolFeatures(rawValue: 1 << 3)
  package static let backEndRequest = ProtocolFeatures(rawValue: 1 << 5)
  package static let pageFault = ProtocolFeatures(rawValue: 1 << 8)
  package static let config = ProtocolFeatures(rawValue: 1 << 9)
  package static let backEndSendFD = ProtocolFeatures(rawValue: 1 << 10)
  package static let resetDevice = ProtocolFeatures(rawValue: 1 << 13)
  package static let inbandNotifications = ProtocolFeatures(rawValue: 1 << 14)
  package static let configureMemorySlots = ProtocolFeatures(rawValue: 1 << 15)
  package static let status = ProtocolFeatures(rawValue: 1 << 16)
  package static let sharedObject = ProtocolFeatures(rawValue: 1 << 18)

  /// What a session implements. Not LOG_SHMFD, so that a front-end refuses migration instead of
  /// losing the device's state, and not PAGEFAULT, whose userfaultfd excludes any other.
  package static let offered: ProtocolFeatures = [
    .multiQueue, .replyAck, .backEndRequest, .config, .resetDevice, .configureMemorySlots,
    .status, .sharedObject,
  ]
}
