import PinholeInput

/// Where events for one kind of device go.
public protocol InputTarget: AnyObject {
  /// What the device is.
  var profile: InputProfile { get }
  /// The lamps that the guest has switched on.
  var leds: UInt32 { get }
  /// Called when ``leds`` have changed.
  var ledsChanged: () -> Void { get set }
  /// Takes what happened at one moment, without `EV_SYN`, axes from 0 to 32767. Never waits.
  func submit(_ moment: [InputEvent])
}
