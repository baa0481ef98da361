import GPUCommands
import Pixels
import Testing

@testable import VirtioGPU

/// What the device reckons of 3D resources before a renderer sees them.
@Suite struct ShapeTests {
  /// `enum pipe_texture_target`.
  private enum Target {
    static let buffer: UInt32 = 0
    static let flat: UInt32 = 2
    static let volume: UInt32 = 3
    static let cube: UInt32 = 4
    static let rect: UInt32 = 5
    static let layers: UInt32 = 7
  }

  private func shape(
    _ target: UInt32 = Target.flat, format: UInt32 = 2, width: UInt32 = 64, height: UInt32 = 32,
    _ change: (inout ResourceShape) -> Void = { _ in }
  ) -> ResourceShape {
    var shape = ResourceShape()
    shape.target = target
    shape.format = format
    shape.width = width
    shape.height = height
    shape.depth = 1
    shape.arraySize = 1
    change(&shape)
    return shape
  }

  /// The guest pays for all of it, not for one layer, sample or level.
  @Test func allOfAResourceIsPaidFor() {
    let pixels: UInt64 = 64 * 32
    #expect(shape().reckonedSize == 4 * pixels)
    for (format, bytes) in [(5, 2), (9, 1), (31, 16), (67, 4)] as [(UInt32, UInt64)] {
      #expect(shape(format: format).reckonedSize == bytes * pixels, "format \(format)")
    }
    #expect(shape { $0.samples = 4 }.reckonedSize == 16 * pixels)
    #expect(shape(Target.volume) { $0.depth = 8 }.reckonedSize == 32 * pixels)
    #expect(shape(Target.layers) { $0.arraySize = 5 }.reckonedSize == 20 * pixels)
    #expect(shape(Target.cube).reckonedSize == 24 * pixels)
    #expect(shape(Target.cube) { $0.arraySize = 6 }.reckonedSize == 24 * pixels)
    // Half, a quarter and so on of the sides are a third of the pixels.
    #expect(shape(width: 48) { $0.lastLevel = 3 }.reckonedSize == 48 * 32 * 4 / 3 * 4)
    #expect(shape(Target.buffer, width: 1000, height: 1).reckonedSize == 1000)
    #expect(shape(format: 31, width: .max, height: .max).reckonedSize == .max)
  }

  @Test func limitsAreInclusive() {
    func sound(_ target: UInt32 = Target.flat, _ change: (inout ResourceShape) -> Void) -> Bool {
      shape(target, change).isSound(limit: 64)
    }
    let pairs: [(WritableKeyPath<ResourceShape, UInt32>, UInt32)] = [
      (\.width, 64), (\.height, 64), (\.depth, 2048), (\.arraySize, 2048), (\.lastLevel, 15),
      (\.samples, 32), (\.target, 8),
    ]
    for (field, most) in pairs {
      #expect(sound { $0[keyPath: field] = most }, "\(field) \(most)")
      #expect(!sound { $0[keyPath: field] = most + 1 }, "\(field) \(most + 1)")
    }
    let buffers: [(WritableKeyPath<ResourceShape, UInt32>, UInt32)] = [
      (\.width, 256 << 20), (\.height, 1), (\.depth, 1), (\.arraySize, 1), (\.lastLevel, 0),
      (\.samples, 1),
    ]
    for (field, most) in buffers {
      func buffer(_ value: UInt32) -> Bool {
        sound(Target.buffer) {
          $0.height = 1
          $0[keyPath: field] = value
        }
      }
      #expect(buffer(most) && !buffer(most + 1), "a buffer's \(field)")
    }
  }

  @Test func boxesLieInTheirLevel() {
    func box(
      x: UInt32 = 0, y: UInt32 = 0, z: UInt32 = 0, _ width: UInt32, _ height: UInt32,
      _ depth: UInt32 = 1
    ) -> Box {
      var box = Box()
      (box.x, box.y, box.z) = (x, y, z)
      (box.width, box.height, box.depth) = (width, height, depth)
      return box
    }
    let flat = shape { $0.lastLevel = 2 }
    #expect(flat.holds(box(64, 32), level: 0) && flat.holds(box(16, 8), level: 2))
    #expect(!flat.holds(box(17, 8), level: 2) && !flat.holds(box(16, 9), level: 2))
    #expect(!flat.holds(box(x: 1, 16, 8), level: 2) && !flat.holds(box(y: 1, 16, 8), level: 2))
    #expect(!flat.holds(box(1, 1), level: 3))
    let volume = shape(Target.volume) {
      $0.depth = 16
      $0.lastLevel = 1
    }
    #expect(volume.holds(box(z: 15, 1, 1), level: 0) && volume.holds(box(z: 7, 1, 1), level: 1))
    #expect(!volume.holds(box(z: 8, 1, 1), level: 1) && !volume.holds(box(1, 1, 9), level: 1))
    let layers = shape(Target.layers) {
      $0.arraySize = 5
      $0.lastLevel = 1
    }
    #expect(layers.holds(box(z: 4, 1, 1), level: 1) && !layers.holds(box(z: 5, 1, 1), level: 1))
    #expect(shape(Target.cube).holds(box(z: 5, 1, 1), level: 0))
    #expect(!shape(Target.cube).holds(box(z: 6, 1, 1), level: 0))
    let buffer = shape(Target.buffer, width: 100, height: 1)
    #expect(buffer.holds(box(x: 99, 1, 1), level: 0) && !buffer.holds(box(101, 1), level: 0))
    #expect(!buffer.holds(box(y: 1, 1, 1), level: 0))
  }

  @Test func onlyPlainPicturesAreShown() {
    #expect(shape().shownAs == .xrgb8888 && shape(Target.rect, format: 67).shownAs == .abgr8888)
    #expect(shape { $0.samples = 1 }.shownAs == .xrgb8888)
    #expect(shape { $0.samples = 2 }.shownAs == nil)
    for target in [Target.buffer, Target.volume, Target.cube, Target.layers] {
      #expect(shape(target).shownAs == nil)
    }
    #expect(shape(format: 31).shownAs == nil)
  }
}
