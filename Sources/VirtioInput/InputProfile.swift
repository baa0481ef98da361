import PinholeInput

/// What a device tells its driver about itself.
public struct InputProfile: Sendable {
  /// What it is for.
  public enum Kind: Sendable, Hashable {
    /// Keys and lamps; the guest repeats keys itself.
    case keyboard
    /// Places on one output, buttons and wheels.
    case tablet
    /// Motions, buttons and wheels.
    case mouse
  }

  /// What it is for.
  public let kind: Kind
  /// How the guest calls it: at most 128 bytes.
  public let name: String

  /// A device of a kind, under a name.
  public init(_ kind: Kind, name: String) {
    self.kind = kind
    self.name = name
  }

  /// The largest value of an absolute axis; the smallest is 0.
  public static let axisMaximum: Int32 = 32767

  /// Events of a type that the device can have, by code.
  public func codes(of type: UInt16) -> [UInt16] {
    switch (kind, type) {
    // What follows the buttons belongs to other kinds of devices.
    case (.keyboard, EventType.key): Array(1...248)
    case (.keyboard, EventType.led): [0, 1, 2]
    case (.tablet, EventType.key), (.mouse, EventType.key): Array(PointerButton.all)
    case (.tablet, EventType.absolute): [Axis.x, Axis.y]
    case (.tablet, EventType.relative): [Axis.horizontalWheel, Axis.wheel]
    case (.mouse, EventType.relative): [Axis.x, Axis.y, Axis.horizontalWheel, Axis.wheel]
    default: []
    }
  }

  /// Whether a driver expects this event.
  public func has(_ event: InputEvent) -> Bool { codes(of: event.type).contains(event.code) }

  /// The part of an axis that a pixel takes, at its middle: guests multiply by the output's size
  /// and divide by 32768.
  public static func position(of pixel: Int32, in size: UInt32) -> Int32 {
    let size = Int64(max(size, 1))
    let pixel = min(max(Int64(pixel), 0), size - 1)
    return Int32(clamping: (2 * pixel + 1) * (Int64(axisMaximum) + 1) / (2 * size))
  }

  /// `struct virtio_input_devids` (virtio 1.3, 5.8.2): `BUS_VIRTUAL`, Red Hat's vendor number as
  /// of all virtio devices, and which of these devices it is.
  var identity: [UInt16] {
    let product: UInt16 =
      switch kind {
      case .keyboard: 1
      case .mouse: 2
      case .tablet: 3
      }
    return [0x06, 0x1af4, product, 1]
  }
}
