/// Names a dma-buf among the devices of one machine: the UUID of `VIRTIO_GPU_CMD_RESOURCE_ASSIGN_UUID`
/// (virtio 1.3 §5.7.6.8) and of vhost-user's shared objects (docs/interop/vhost-user.rst).
public struct SharedObjectID: Hashable, Sendable, CustomStringConvertible {
  /// Bytes of a UUID.
  public static let size = 16
  private let high: UInt64
  private let low: UInt64

  /// A random name, RFC 9562 version 4.
  public static func random() -> SharedObjectID {
    SharedObjectID(
      high: .random(in: 0 ... .max) & ~0xf000 | 0x4000,
      low: .random(in: 0 ... .max) & ~(3 << 62) | 2 << 62)
  }

  private init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// Reads a name; nil unless there are ``size`` bytes.
  public init?(_ bytes: some Collection<UInt8>) {
    guard bytes.count == Self.size else { return nil }
    high = bytes.prefix(8).reduce(0) { $0 << 8 | UInt64($1) }
    low = bytes.suffix(8).reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// The ``size`` bytes in the order in which they travel.
  public var bytes: [UInt8] {
    [high, low].flatMap { word in
      (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * $0)) }
    }
  }

  /// In the usual notation.
  public var description: String {
    let digits = bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }
    return [0..<4, 4..<6, 6..<8, 8..<10, 10..<16].map { digits[$0].joined() }
      .joined(separator: "-")
  }
}

/// Where a device makes known which objects other devices may ask it for.
public protocol SharedObjectRegistry: AnyObject {
  /// Others may ask for this object from now on.
  func announce(_ id: SharedObjectID)
  /// There is no such object any more.
  func retract(_ id: SharedObjectID)
}
