/// A cursor of one output.
public struct CursorState {
  /// Which output, from 0.
  public var output: Int
  /// Where the hot spot is, in pixels of the output; may lie outside, up to ``farthest``.
  public var x: Int32
  /// Where the hot spot is, in pixels of the output; may lie outside, up to ``farthest``.
  public var y: Int32
  /// The hot spot: a pixel of the image.
  public var hotX: UInt32
  /// The hot spot: a pixel of the image.
  public var hotY: UInt32
  /// The image; nil hides the cursor.
  public var image: CursorImage?

  /// Pixels from an output's corner in each direction.
  public static let farthest: Int32 = 65_536

  /// Describes a cursor.
  public init(
    output: Int, x: Int32, y: Int32, hotX: UInt32, hotY: UInt32, image: CursorImage?
  ) {
    self.output = output
    self.x = x
    self.y = y
    self.hotX = hotX
    self.hotY = hotY
    self.image = image
  }
}

/// The pixels of a cursor, which never change.
public final class CursorImage {
  /// Pixels across.
  public let width: UInt32
  /// Pixels down.
  public let height: UInt32
  /// `DRM_FORMAT_ARGB8888`, premultiplied as the guest sent it, rows of `width * 4` bytes.
  public let pixels: [UInt8]
  /// Changes with every image.
  public let serial: UInt64

  /// Holds an image of `width * height * 4` bytes.
  public init(width: UInt32, height: UInt32, pixels: [UInt8], serial: UInt64) {
    self.width = width
    self.height = height
    self.pixels = pixels
    self.serial = serial
  }
}

extension CursorState {
  /// A cursor at the origin of an output, without an image.
  public init(hiddenOn output: Int) {
    self.init(output: output, x: 0, y: 0, hotX: 0, hotY: 0, image: nil)
  }
}
