/// Tight (the community's RFB specification, section 7.7.7): one colour, a palette, all colours,
/// each in a zlib stream of its own, or JPEG where the viewer allows it.
struct TightEncoder {
  /// The encoding's number.
  static let number: Int32 = 7

  private var streams: [Deflater?] = [nil, nil, nil]
  private var jpeg: JPEGEncoder?
  private var plain: [UInt8] = []
  private var palette = Palette()

  /// The streams' numbers.
  private enum Stream: Int {
    case full, two, indexed
  }

  /// Appends the data of one rectangle.
  ///
  /// - Parameter quality: 0 to 9 for JPEG, nil for none.
  /// - Returns: whether it is exact.
  mutating func encode(
    _ colours: [UInt32], width: Int, height: Int, as format: ClientPixels, level: Int,
    quality: Int?, to out: inout [UInt8]
  ) throws(RFBError) -> Bool {
    let facts = palette.collect(colours, limit: 256)
    plain.removeAll(keepingCapacity: true)
    if facts.isComplete, palette.count == 1 {
      out.append(0x80)
      format.appendTight(palette[0], to: &out)
      return true
    }
    let isPhoto = !facts.isComplete && facts.runs * 2 > colours.count / 2
    if let quality, isPhoto, format.bits > 8, width * height >= 1024 {
      let jpeg = self.jpeg ?? JPEGEncoder()
      self.jpeg = jpeg
      if let picture = jpeg.encode(colours, width: width, height: height, level: quality) {
        out.append(0x90)
        appendLength(picture.count, to: &out)
        out += picture
        return false
      }
    }
    // A number a pixel, if that is smaller than a colour a pixel.
    let pixel = format.tightCompact ? 3 : format.bits / 8
    let usesPalette =
      facts.isComplete
      && (palette.count == 2
        || (pixel > 1
          && palette.count * pixel + colours.count
            < colours.count * pixel))
    guard usesPalette else {
      out.append(UInt8(Stream.full.rawValue << 4))
      if format.tightCompact {
        plain.reserveCapacity(colours.count * 3)
        for colour in colours { format.appendTight(colour, to: &plain) }
      } else {
        format.append(colours.span, to: &plain)
      }
      try append(.full, level, to: &out)
      return true
    }
    let stream = palette.count == 2 ? Stream.two : .indexed
    out.append(UInt8(stream.rawValue << 4) | 0x40)
    out.append(1)
    out.append(UInt8(palette.count - 1))
    for index in 0..<palette.count { format.appendTight(palette[index], to: &out) }
    palette.pack(width: width, bits: palette.count == 2 ? 1 : 8, to: &plain)
    try append(stream, level, to: &out)
    return true
  }

  private mutating func append(
    _ stream: Stream, _ level: Int, to out: inout [UInt8]
  ) throws(RFBError) {
    guard plain.count >= 12 else {
      out += plain
      return
    }
    let deflater = streams[stream.rawValue] ?? Deflater(level: level)
    streams[stream.rawValue] = deflater
    var packed: [UInt8] = []
    try deflater.deflate(plain, level: level, to: &packed)
    appendLength(packed.count, to: &out)
    out += packed
  }

  /// One to three bytes, 7, 7 and 8 bits of them, the lowest first. A piece stays below 4 MiB.
  private func appendLength(_ count: Int, to out: inout [UInt8]) {
    out.append(UInt8(count & 127) | (count > 127 ? 128 : 0))
    guard count > 127 else { return }
    out.append(UInt8(count >> 7 & 127) | (count > 16383 ? 128 : 0))
    if count > 16383 { out.append(UInt8(truncatingIfNeeded: count >> 14)) }
  }
}
