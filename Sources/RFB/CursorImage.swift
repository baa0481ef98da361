/// A cursor's picture.
public struct CursorImage: Equatable, Sendable {
  /// Pixels across.
  public let width: Int
  /// Pixels down.
  public let height: Int
  /// The hot spot inside.
  public let hotX: Int
  /// The hot spot inside.
  public let hotY: Int
  /// 0xAARRGGBB, alpha premultiplied, rows from the top.
  public let pixels: [UInt32]

  /// - Returns: nil if it is larger than 512x512 or the pixels are too few.
  public init?(width: Int, height: Int, hotX: Int, hotY: Int, pixels: [UInt32]) {
    guard (1...512).contains(width), (1...512).contains(height),
      pixels.count >= width * height
    else { return nil }
    self.width = width
    self.height = height
    self.hotX = min(max(hotX, 0), width - 1)
    self.hotY = min(max(hotY, 0), height - 1)
    self.pixels = pixels
  }

  /// The rectangle of the pseudo-encoding -314, with alpha: Raw, bytes red, green, blue, alpha.
  func appendWithAlpha(to out: inout [UInt8]) {
    out.put(header, encoding: PseudoEncoding.cursorWithAlpha)
    out.put(UInt32(0))
    for pixel in pixels.prefix(width * height) { out.put(pixel << 8 | pixel >> 24) }
  }

  /// The rectangle of the pseudo-encoding -239 (RFC 6143 section 7.8.1): pixels and a mask.
  func append(as format: ClientPixels, to out: inout [UInt8]) {
    out.put(header, encoding: PseudoEncoding.cursor)
    for pixel in pixels.prefix(width * height) { format.append(Self.opaque(pixel), to: &out) }
    for row in 0..<height {
      var byte: UInt8 = 0
      for column in 0..<width {
        byte = byte << 1 | (pixels[row * width + column] >> 24 >= 128 ? 1 : 0)
        if column & 7 == 7 {
          out.append(byte)
          byte = 0
        }
      }
      if width & 7 != 0 { out.append(byte << UInt8(8 - width & 7)) }
    }
  }

  /// Draws it over a picture's rectangle.
  ///
  /// - Parameters:
  ///   - x: where the hot spot is in the picture.
  ///   - y: where the hot spot is in the picture.
  ///   - area: which part of the picture `colours` holds.
  func draw(x: Int, y: Int, over area: Area, _ colours: inout [UInt32]) {
    let left = x - hotX
    let top = y - hotY
    for row in max(top, area.y)..<max(top, area.y, min(top + height, area.bottom)) {
      for column in max(left, area.x)..<max(left, area.x, min(left + width, area.right)) {
        let pixel = pixels[(row - top) * width + column - left]
        let place = (row - area.y) * area.width + column - area.x
        colours[place] = Self.over(pixel, colours[place])
      }
    }
  }

  /// What it covers of a picture, its hot spot being at a place.
  func area(x: Int, y: Int) -> Area {
    let left = max(x - hotX, 0)
    let top = max(y - hotY, 0)
    return Area(
      x: left, y: top, width: x - hotX + width - left, height: y - hotY + height - top)
  }

  /// An empty cursor: none is shown.
  static func appendNone(withAlpha: Bool, to out: inout [UInt8]) {
    out.put(
      Area(width: 0, height: 0),
      encoding: withAlpha ? PseudoEncoding.cursorWithAlpha : PseudoEncoding.cursor)
    if withAlpha { out.put(UInt32(0)) }
  }

  private var header: Area { Area(x: hotX, y: hotY, width: width, height: height) }

  /// The colour that was multiplied.
  private static func opaque(_ pixel: UInt32) -> UInt32 {
    let alpha = pixel >> 24
    if alpha == 255 || alpha == 0 { return pixel & 0xff_ffff }
    func channel(_ shift: UInt32) -> UInt32 {
      min((pixel >> shift & 255) * 255 / alpha, 255) << shift
    }
    return channel(16) | channel(8) | channel(0)
  }

  private static func over(_ pixel: UInt32, _ below: UInt32) -> UInt32 {
    let rest = 255 - pixel >> 24
    func channel(_ shift: UInt32) -> UInt32 {
      min((pixel >> shift & 255) + ((below >> shift & 255) * rest + 127) / 255, 255) << shift
    }
    return channel(16) | channel(8) | channel(0)
  }
}

/// Numbers of what is no encoding but a message in the place of one.
enum PseudoEncoding {
  /// RFC 6143 section 7.8.1.
  static let cursor: Int32 = -239
  /// RFC 6143 section 7.8.2.
  static let desktopSize: Int32 = -223
  /// The community's specification, as those below.
  static let extendedDesktopSize: Int32 = -308
  static let cursorWithAlpha: Int32 = -314
  static let qemuKeys: Int32 = -258
  static let qualities: ClosedRange<Int32> = -32 ... -23
  static let levels: ClosedRange<Int32> = -256 ... -247
}
