import CWayland
import Glibc
import PinholeInput

/// The compositor's keyboard and pointer, as events for the guest.
final class Seat {
  /// Gets what happened at one moment, and where the pointer is, in pixels of the window.
  var happened: ([InputEvent], (x: Int, y: Int)?) -> Void = { _, _ in }
  /// The pointer has come into the window: it needs a picture now.
  var entered: () -> Void = {}
  /// What it is of has to outlive it.
  private let compositor: Compositor
  private let seat: OpaquePointer
  private var keyboard: OpaquePointer?
  private(set) var pointer: OpaquePointer?
  /// Of the pointer's last entry.
  private(set) var serial: UInt32 = 0
  private var held: Set<UInt16> = []
  private var events: [InputEvent] = []
  private var place: (x: Int, y: Int)?
  private var hasMoved = false
  /// Wheel steps that came as such in this frame; and what has not made a step yet.
  private var hasSteps = [false, false]
  private var travel = [0.0, 0.0]
  private let seatListener: UnsafeMutablePointer<wl_seat_listener>
  private let keyListener: UnsafeMutablePointer<wl_keyboard_listener>
  private let pointerListener: UnsafeMutablePointer<wl_pointer_listener>

  init(_ seat: OpaquePointer, of compositor: Compositor) {
    self.compositor = compositor
    self.seat = seat
    seatListener = .allocate(capacity: 1)
    seatListener.initialize(to: wl_seat_listener())
    keyListener = .allocate(capacity: 1)
    keyListener.initialize(to: wl_keyboard_listener())
    pointerListener = .allocate(capacity: 1)
    pointerListener.initialize(to: wl_pointer_listener())
    listenToKeys()
    listenToPointer()
    seatListener.pointee.name = { _, _, _ in }
    seatListener.pointee.capabilities = { data, _, bits in Seat.of(data)?.has(bits) }
    wl_seat_add_listener(seat, seatListener, me)
  }

  deinit {
    if let keyboard { wl_keyboard_release(keyboard) }
    if let pointer { wl_pointer_release(pointer) }
    wl_seat_release(seat)
    seatListener.deallocate()
    keyListener.deallocate()
    pointerListener.deallocate()
  }

  private var me: UnsafeMutableRawPointer { Unmanaged.passUnretained(self).toOpaque() }

  private static func of(_ data: UnsafeMutableRawPointer?) -> Seat? {
    data.map { Unmanaged<Seat>.fromOpaque($0).takeUnretainedValue() }
  }

  private func has(_ bits: UInt32) {
    let hasKeyboard = bits & WL_SEAT_CAPABILITY_KEYBOARD.rawValue != 0
    if hasKeyboard, keyboard == nil {
      keyboard = wl_seat_get_keyboard(seat)
      wl_keyboard_add_listener(keyboard, keyListener, me)
    } else if !hasKeyboard, let old = keyboard {
      wl_keyboard_release(old)
      keyboard = nil
      releaseAll()
    }
    let hasPointer = bits & WL_SEAT_CAPABILITY_POINTER.rawValue != 0
    if hasPointer, pointer == nil {
      pointer = wl_seat_get_pointer(seat)
      wl_pointer_add_listener(pointer, pointerListener, me)
    } else if !hasPointer, let old = pointer {
      wl_pointer_release(old)
      pointer = nil
    }
  }

  private func listenToKeys() {
    keyListener.pointee.keymap = { _, _, _, fd, _ in _ = close(fd) }
    keyListener.pointee.enter = { _, _, _, _, _ in }
    // Whoever gets the keys now also gets it when they go up.
    keyListener.pointee.leave = { data, _, _, _ in Seat.of(data)?.releaseAll() }
    keyListener.pointee.key = { data, _, _, _, key, state in
      Seat.of(data)?.key(key, state == WL_KEYBOARD_KEY_STATE_PRESSED.rawValue)
    }
    keyListener.pointee.modifiers = { _, _, _, _, _, _, _ in }
    keyListener.pointee.repeat_info = { _, _, _, _ in }
  }

  private func key(_ code: UInt32, _ isDown: Bool) {
    guard let code = UInt16(exactly: code) else { return }
    if isDown { held.insert(code) } else { held.remove(code) }
    happened([.key(code, isDown: isDown)], nil)
  }

  private func releaseAll() {
    for code in held.sorted() { happened([.key(code, isDown: false)], nil) }
    held = []
  }

  private func listenToPointer() {
    pointerListener.pointee.enter = { data, _, serial, _, x, y in
      guard let seat = Seat.of(data) else { return }
      seat.serial = serial
      seat.move(x, y)
      seat.entered()
    }
    pointerListener.pointee.leave = { _, _, _, _ in }
    pointerListener.pointee.motion = { data, _, _, x, y in Seat.of(data)?.move(x, y) }
    pointerListener.pointee.button = { data, _, _, _, button, state in
      guard let seat = Seat.of(data), let code = UInt16(exactly: button) else { return }
      seat.events.append(
        .key(code, isDown: state == WL_POINTER_BUTTON_STATE_PRESSED.rawValue))
    }
    pointerListener.pointee.axis = { data, _, _, axis, value in
      Seat.of(data)?.scroll(axis, by: wl_fixed_to_double(value))
    }
    pointerListener.pointee.axis_source = { _, _, _ in }
    pointerListener.pointee.axis_stop = { _, _, _, _ in }
    pointerListener.pointee.axis_discrete = { data, _, axis, steps in
      Seat.of(data)?.step(axis, by: steps)
    }
    pointerListener.pointee.frame = { data, _ in Seat.of(data)?.endOfFrame() }
  }

  private func move(_ x: wl_fixed_t, _ y: wl_fixed_t) {
    place = (Int(wl_fixed_to_int(x)), Int(wl_fixed_to_int(y)))
    hasMoved = true
  }

  private func scroll(_ axis: UInt32, by value: Double) {
    guard axis < 2 else { return }
    travel[Int(axis)] += value
  }

  private func step(_ axis: UInt32, by steps: Int32) {
    guard axis < 2, steps != 0 else { return }
    hasSteps[Int(axis)] = true
    turn(axis, steps)
  }

  /// Wayland's wheels count towards the user and to the right; evdev's away from the user.
  private func turn(_ axis: UInt32, _ steps: Int32) {
    events.append(
      axis == WL_POINTER_AXIS_VERTICAL_SCROLL.rawValue
        ? .relative(Axis.wheel, 0 &- steps) : .relative(Axis.horizontalWheel, steps))
  }

  private func endOfFrame() {
    for axis in 0..<2 {
      if hasSteps[axis] { travel[axis] = 0 }
      // A finger's motion of 10 is a step, as compositors make a step a motion of 10 to 15.
      let steps = (travel[axis] / 10).rounded(.towardZero)
      if steps != 0, steps.magnitude < 1000 { turn(UInt32(axis), Int32(steps)) }
      travel[axis] -= steps * 10
      hasSteps[axis] = false
    }
    defer {
      events = []
      hasMoved = false
    }
    guard hasMoved || !events.isEmpty else { return }
    // At most 32 events are one moment.
    happened(Array(events.prefix(28)), place)
  }
}
