/// Something that a person did: an event of linux/input-event-codes.h.
public struct InputEvent: Sendable, Equatable {
  /// `EV_KEY`, `EV_REL` or `EV_ABS`.
  public var type: UInt16
  /// Which key, button or axis: `KEY_*`, `BTN_*`, `REL_*` or `ABS_*`.
  public var code: UInt16
  /// 1 and 0 for keys that go down and up; steps for `EV_REL`; pixels of an output for `EV_ABS`.
  public var value: Int32

  /// Names an event; nothing is checked.
  public init(type: UInt16, code: UInt16, value: Int32) {
    self.type = type
    self.code = code
    self.value = value
  }

  /// A key or a button goes down or up.
  public static func key(_ code: UInt16, isDown: Bool) -> InputEvent {
    InputEvent(type: EventType.key, code: code, value: isDown ? 1 : 0)
  }

  /// A relative motion or a turn of a wheel.
  public static func relative(_ code: UInt16, _ value: Int32) -> InputEvent {
    InputEvent(type: EventType.relative, code: code, value: value)
  }

  /// A place on an axis, in pixels.
  public static func absolute(_ code: UInt16, _ value: Int32) -> InputEvent {
    InputEvent(type: EventType.absolute, code: code, value: value)
  }
}

/// `EV_*`.
public enum EventType {
  /// `EV_SYN`: ends what happened at one moment.
  public static let synchronize: UInt16 = 0
  /// `EV_KEY`: keys and buttons.
  public static let key: UInt16 = 1
  /// `EV_REL`: relative motion and wheels.
  public static let relative: UInt16 = 2
  /// `EV_ABS`: places.
  public static let absolute: UInt16 = 3
  /// `EV_LED`: lamps.
  public static let led: UInt16 = 0x11
  /// `EV_REP`: the guest repeats keys by itself.
  public static let repetition: UInt16 = 0x14
}

/// `ABS_*` and `REL_*`.
public enum Axis {
  /// `ABS_X` and `REL_X`.
  public static let x: UInt16 = 0
  /// `ABS_Y` and `REL_Y`.
  public static let y: UInt16 = 1
  /// `REL_HWHEEL`: positive to the right.
  public static let horizontalWheel: UInt16 = 6
  /// `REL_WHEEL`: positive away from the user.
  public static let wheel: UInt16 = 8
}

/// `BTN_*`.
public enum PointerButton {
  /// `BTN_LEFT`.
  public static let left: UInt16 = 0x110
  /// `BTN_RIGHT`.
  public static let right: UInt16 = 0x111
  /// `BTN_MIDDLE`.
  public static let middle: UInt16 = 0x112
  /// `BTN_SIDE`: back.
  public static let side: UInt16 = 0x113
  /// `BTN_EXTRA`: forward.
  public static let extra: UInt16 = 0x114
  /// All that a mouse can have: `BTN_LEFT` to `BTN_TASK`.
  public static let all: ClosedRange<UInt16> = 0x110...0x117
}

/// A place on an output of the guest.
public struct InputPlace: Sendable, Equatable {
  /// Which output, from 0.
  public var output: UInt32
  /// Pixels from its left edge; what lies outside is moved to the edge.
  public var x: Int32
  /// Pixels from its upper edge.
  public var y: Int32
  /// Pixels across the output, as its viewer sees it: at least 1.
  public var width: UInt32
  /// Pixels down.
  public var height: UInt32

  /// Names a place; nothing is checked.
  public init(output: UInt32 = 0, x: Int32, y: Int32, width: UInt32, height: UInt32) {
    self.output = output
    self.x = x
    self.y = y
    self.width = width
    self.height = height
  }
}
