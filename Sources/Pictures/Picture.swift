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
  /// is not positive, or the pixels do not fit in the bytes.
  ///
  /// - Parameters:
  ///   - bytes: the memory that holds the pixels.
  ///   - offset: bytes from its start to the first pixel.
  ///   - width: pixels across.
  ///   - height: pixels down.
  ///   - stride: bytes from one row to the next.
  ///   - fourcc: a `DRM_FORMAT_*` code of drm_fourcc.h.
  public init?(
    bytes: UnsafeRawBufferPointer, offset: Int = 0, width: Int, height: Int, stride: Int,
    fourcc: UInt32
  ) {
    guard let order = ByteOrder(fourcc: fourcc), width > 0, height > 0, offset >= 0 else {
      return nil
    }
    let (row, overflow) = width.multipliedReportingOverflow(by: 4)
    let (before, overflow2) = (height - 1).multipliedReportingOverflow(by: stride)
    let (end, overflow3) = before.addingReportingOverflow(row)
    let (all, overflow4) = end.addingReportingOverflow(offset)
    guard !overflow, !overflow2, !overflow3, !overflow4, stride >= row, all <= bytes.count else {
      return nil
    }
    self.width = width
    self.height = height
    rgba = [UInt8](unsafeUninitializedCapacity: row * height) { out, count in
      var to = 0
      for y in 0..<height {
        var from = offset + y * stride
        for _ in 0..<width {
          out[to] = bytes[from + order.red]
          out[to + 1] = bytes[from + order.green]
          out[to + 2] = bytes[from + order.blue]
          out[to + 3] = order.alpha.map { bytes[from + $0] } ?? 255
          from += 4
          to += 4
        }
      }
      count = to
    }
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

  /// How many pixels differ in red, green or blue; nil when the sizes do.
  public func differingPixels(from other: Picture) -> Int? {
    guard width == other.width, height == other.height else { return nil }
    var count = 0
    for at in stride(from: 0, to: rgba.count, by: 4)
    where rgba[at] != other.rgba[at] || rgba[at + 1] != other.rgba[at + 1]
      || rgba[at + 2] != other.rgba[at + 2]
    {
      count += 1
    }
    return count
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

/// Where the colours of a 4 byte pixel lie in memory.
struct ByteOrder {
  let red: Int
  let green: Int
  let blue: Int
  let alpha: Int?

  init?(fourcc: UInt32) {
    let first = UInt8(truncatingIfNeeded: fourcc)
    let second = UInt8(truncatingIfNeeded: fourcc >> 8)
    guard fourcc >> 16 == 0x3432 else { return nil }  // "24"
    switch (first, second) {
    case (UInt8(ascii: "X"), UInt8(ascii: "R")): (red, green, blue, alpha) = (2, 1, 0, nil)
    case (UInt8(ascii: "A"), UInt8(ascii: "R")): (red, green, blue, alpha) = (2, 1, 0, 3)
    case (UInt8(ascii: "X"), UInt8(ascii: "B")): (red, green, blue, alpha) = (0, 1, 2, nil)
    case (UInt8(ascii: "A"), UInt8(ascii: "B")): (red, green, blue, alpha) = (0, 1, 2, 3)
    case (UInt8(ascii: "B"), UInt8(ascii: "X")): (red, green, blue, alpha) = (1, 2, 3, nil)
    case (UInt8(ascii: "B"), UInt8(ascii: "A")): (red, green, blue, alpha) = (1, 2, 3, 0)
    case (UInt8(ascii: "R"), UInt8(ascii: "X")): (red, green, blue, alpha) = (3, 2, 1, nil)
    case (UInt8(ascii: "R"), UInt8(ascii: "A")): (red, green, blue, alpha) = (3, 2, 1, 0)
    default: return nil
    }
  }
}
