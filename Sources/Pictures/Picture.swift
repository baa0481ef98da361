import Pixels

/// A picture in memory: red, green, blue and alpha bytes, rows without gaps.
public struct Picture: Equatable, Sendable {
  /// Pixels across.
  public let width: Int
  /// Pixels down.
  public let height: Int
  /// `width * height * 4` bytes, R G B A for each pixel, alpha not premultiplied.
  public var rgba: [UInt8]

  /// A picture of one colour.
  public init(width: Int, height: Int, fill: (UInt8, UInt8, UInt8, UInt8) = (0, 0, 0, 255)) {
    self.width = width
    self.height = height
    rgba = []
    rgba.reserveCapacity(width * height * 4)
    for _ in 0..<(width * height) {
      rgba.append(fill.0)
      rgba.append(fill.1)
      rgba.append(fill.2)
      rgba.append(fill.3)
    }
  }

  /// Takes over pixels; nil if their number is wrong.
  public init?(width: Int, height: Int, rgba: [UInt8]) {
    guard width > 0, height > 0, rgba.count == width * height * 4 else { return nil }
    self.width = width
    self.height = height
    self.rgba = rgba
  }

  /// Converts pixels of a 4 byte format.
  ///
  /// The formats' `X` byte becomes an alpha of 255. Nil when the format is not known, a number
  /// is 0, or the pixels do not fit in the bytes.
  ///
  /// - Parameters:
  ///   - bytes: the memory that holds the pixels.
  ///   - layout: how they lie in it.
  public init?(bytes: UnsafeRawBufferPointer, layout: PixelLayout) {
    guard let rgba = ByteOrder.rgba(of: bytes, layout) else { return nil }
    width = Int(layout.width)
    height = Int(layout.height)
    self.rgba = rgba
  }

  /// The four bytes of a pixel inside the picture.
  public subscript(x: Int, y: Int) -> (UInt8, UInt8, UInt8, UInt8) {
    get {
      let at = (y * width + x) * 4
      return (rgba[at], rgba[at + 1], rgba[at + 2], rgba[at + 3])
    }
    set {
      let at = (y * width + x) * 4
      rgba[at] = newValue.0
      rgba[at + 1] = newValue.1
      rgba[at + 2] = newValue.2
      rgba[at + 3] = newValue.3
    }
  }

  /// Copies another picture into this one; what lies outside is left out.
  public mutating func draw(_ other: Picture, x left: Int, y top: Int) {
    for y in 0..<other.height where y + top >= 0 && y + top < height {
      for x in 0..<other.width where x + left >= 0 && x + left < width {
        self[x + left, y + top] = other[x, y]
      }
    }
  }
}
