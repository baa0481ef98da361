import FakeGuest
import Glibc
import Pixels

/// What a guest shows while a contestant is measured.
struct Scene {
  /// What the table calls it.
  var name: String
  /// Size of each picture in pixels.
  var width = 1920
  /// Size of each picture in pixels.
  var height = 1080
  /// How many outputs show something, each frame all of them.
  var outputs = 1
  /// The guest draws into two pictures in turn, not into the one on screen.
  var flips = true
  /// A twentieth of the picture changes with each frame, not all of it.
  var isPartial = false
  /// Single pages all over the guest's memory, not one run.
  var scattered = false

  /// All of a picture.
  var whole: Rect { Rect(width: UInt32(width), height: UInt32(height)) }

  /// What changes: a quarter of the width and a fifth of the height where it is a twentieth.
  var damage: Rect {
    guard isPartial else { return whole }
    return Rect(
      x: UInt32(width / 4), y: UInt32(height / 4), width: UInt32(width / 4),
      height: UInt32(height / 5))
  }

  /// Bytes of guest RAM that it needs.
  var memory: UInt64 {
    let picture = UInt64(width * height * 4 + 4096)
    return (picture * UInt64(outputs * 2) + (64 << 20)) & ~0x1f_ffff
  }

  /// Those of the copy path.
  static let copyPath = [
    Scene(name: "1080p, all"),
    Scene(name: "1080p, all, in single pages", scattered: true),
    Scene(name: "1080p, 5 %", flips: false, isPartial: true),
    Scene(name: "1080p, all, drawn into the one on screen", flips: false),
    Scene(name: "1080p, all, 4 outputs", outputs: 4),
    Scene(name: "720p, all", width: 1280, height: 720),
    Scene(name: "720p, 5 %", width: 1280, height: 720, flips: false, isPartial: true),
    Scene(name: "4K, all", width: 3840, height: 2160),
    Scene(name: "4K, 5 %", width: 3840, height: 2160, flips: false, isPartial: true),
  ]
}
