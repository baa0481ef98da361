import PinholeInput
import RFB

/// What one viewer's keys and pointer are on the guest's devices.
struct Keyboard {
  /// Events of one moment, and where the pointer is then.
  struct Moment: Equatable {
    var events: [InputEvent]
    var place: InputPlace?
  }

  private let layout: KeyLayout
  private let output: UInt32
  /// Keys that went down by their keysym, and what was held for them.
  private var held: [UInt32: (key: UInt16, with: [UInt16])] = [:]
  private var down: Set<UInt16> = []
  private var buttons: UInt8 = 0

  private static let shifts: [UInt16] = [42, 54]  // KEY_LEFTSHIFT, KEY_RIGHTSHIFT
  private static let level3: UInt16 = 100  // KEY_RIGHTALT

  init(layout: KeyLayout, output: Int) {
    self.layout = layout
    self.output = UInt32(output)
  }

  /// What the guest shall see of this.
  mutating func moments(of input: RFBInput) -> [Moment] {
    switch input {
    case .key(let code?, let keysym, let isDown):
      guard code < 256, let key = ScanCode.key(UInt8(code)) else {
        return moments(ofKeysym: keysym, isDown: isDown)
      }
      // A viewer repeats keys that are held; the guest does that by itself.
      return isDown && down.contains(key) ? [] : [press(key, isDown)]
    case .key(nil, let keysym, let isDown): return moments(ofKeysym: keysym, isDown: isDown)
    case .pointer(let x, let y, let width, let height, let buttons):
      let place = InputPlace(
        output: output, x: Int32(clamping: x), y: Int32(clamping: y),
        width: UInt32(clamping: width), height: UInt32(clamping: height))
      return [Moment(events: clicks(buttons), place: place)]
    }
  }

  private mutating func press(_ key: UInt16, _ isDown: Bool) -> Moment {
    if isDown { down.insert(key) } else { down.remove(key) }
    return Moment(events: [.key(key, isDown: isDown)])
  }

  private mutating func moments(ofKeysym keysym: UInt32, isDown: Bool) -> [Moment] {
    guard isDown else { return release(keysym) }
    guard let place = layout.place(of: keysym) else { return [] }
    if held[keysym] != nil { return [] }
    // Held as another keysym, which would go up as none: a goes down, then Shift, and a repeats.
    let before = release(keysym)
    let shift = Self.shifts.filter { down.contains($0) }
    var with: [UInt16] = []
    if place.needsShift, shift.isEmpty { with.append(Self.shifts[0]) }
    if place.needsLevel3, !down.contains(Self.level3) { with.append(Self.level3) }
    held[keysym] = (place.key, with)
    // The viewer's keyboard needs Shift where the guest's must not have it.
    let lifted = place.mindsShift && !place.needsShift ? shift : []
    return before + with.map { Moment(events: [.key($0, isDown: true)]) }
      + lifted.map { Moment(events: [.key($0, isDown: false)]) }
      + [press(place.key, true)]
      + lifted.map { Moment(events: [.key($0, isDown: true)]) }
  }

  /// Lets the key go that is held as this keysym, or else the key that has this keysym too.
  ///
  /// Some viewers look keysyms up when a key goes up: Shift and A go down, Shift goes up, and then
  /// it is `a` that goes up. The guest would repeat A for ever.
  private mutating func release(_ keysym: UInt32) -> [Moment] {
    var went = keysym
    if held[keysym] == nil {
      guard let key = layout.place(of: keysym)?.key,
        let other = held.first(where: { $0.value.key == key })?.key
      else { return [] }
      went = other
    }
    guard let pressed = held.removeValue(forKey: went) else { return [] }
    return [press(pressed.key, false)]
      + pressed.with.reversed().map { Moment(events: [.key($0, isDown: false)]) }
  }

  private mutating func clicks(_ new: UInt8) -> [InputEvent] {
    let changed = new ^ buttons
    buttons = new
    var events: [InputEvent] = []
    for (bit, key) in [
      (0, PointerButton.left), (1, PointerButton.middle), (2, PointerButton.right),
      (7, PointerButton.side),
    ] where changed >> UInt8(bit) & 1 == 1 {
      events.append(.key(key, isDown: new >> UInt8(bit) & 1 == 1))
    }
    for (bit, axis, step) in [
      (3, Axis.wheel, 1), (4, Axis.wheel, -1), (5, Axis.horizontalWheel, -1),
      (6, Axis.horizontalWheel, 1),
    ] as [(UInt8, UInt16, Int32)] where (changed & new) >> bit & 1 == 1 {
      events.append(.relative(axis, step))
    }
    return events
  }
}
