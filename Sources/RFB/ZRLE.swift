/// ZRLE (RFC 6143 section 7.7.6): tiles of 64x64, the smallest of solid, palette, runs and raw,
/// then zlib.
struct ZRLEEncoder {
  /// RFC 6143 section 7.7.6.
  static let number: Int32 = 16

  private var stream: Deflater?
  private var tile: [UInt32] = []
  private var plain: [UInt8] = []
  private var palette = Palette()

  /// Appends the data of one rectangle.
  mutating func encode(
    _ colours: [UInt32], width: Int, height: Int, as format: ClientPixels, level: Int,
    to out: inout [UInt8]
  ) throws(RFBError) {
    plain.removeAll(keepingCapacity: true)
    for y in stride(from: 0, to: height, by: 64) {
      for x in stride(from: 0, to: width, by: 64) {
        let across = min(64, width - x)
        tile.removeAll(keepingCapacity: true)
        for row in y..<min(y + 64, height) {
          let start = row * width + x
          tile.append(contentsOf: colours[start..<start + across])
        }
        encodeTile(across, format)
      }
    }
    let stream = self.stream ?? Deflater(level: level)
    self.stream = stream
    let head = out.count
    out.put(UInt32(0))
    try stream.deflate(plain, level: level, to: &out)
    let count = UInt32(out.count - head - 4)
    for index in 0..<4 { out[head + index] = UInt8(truncatingIfNeeded: count >> (24 - 8 * index)) }
  }

  private mutating func encodeTile(_ width: Int, _ format: ClientPixels) {
    let bytes = format.compact ? 3 : format.bits / 8
    let facts = palette.collect(tile, limit: 127)
    if facts.isComplete, palette.count == 1 {
      plain.append(1)
      return format.appendCompact(palette[0], to: &plain)
    }
    // Sizes as the RFC's forms have them; a run is rarely longer than 255.
    let raw = tile.count * bytes
    var best = raw
    var form = 0
    let runs = facts.runs * (bytes + 1)
    if runs < best { (best, form) = (runs, 128) }
    if facts.isComplete {
      let colours = palette.count * bytes
      let mixed = colours + facts.runs * 2 - facts.singles
      if mixed < best { (best, form) = (mixed, 128 + palette.count) }
      if palette.count <= 16 {
        let packed = colours + (width * palette.bits + 7) / 8 * (tile.count / width)
        if packed < best { (best, form) = (packed, palette.count) }
      }
    }
    plain.append(UInt8(form))
    switch form {
    case 0: for colour in tile { format.appendCompact(colour, to: &plain) }
    case 2...16:
      for index in 0..<palette.count { format.appendCompact(palette[index], to: &plain) }
      palette.pack(width: width, bits: palette.bits, to: &plain)
    case 128: appendRuns(format, usesPalette: false)
    default:
      for index in 0..<palette.count { format.appendCompact(palette[index], to: &plain) }
      appendRuns(format, usesPalette: true)
    }
  }

  private mutating func appendRuns(_ format: ClientPixels, usesPalette: Bool) {
    var index = 0
    while index < tile.count {
      let colour = tile[index]
      var end = index + 1
      while end < tile.count, tile[end] == colour { end += 1 }
      var left = end - index - 1
      if usesPalette {
        let number = palette.number(at: index)
        plain.append(left == 0 ? number : number | 128)
      } else {
        format.appendCompact(colour, to: &plain)
      }
      if !usesPalette || left > 0 {
        while left >= 255 {
          plain.append(255)
          left -= 255
        }
        plain.append(UInt8(left))
      }
      index = end
    }
  }
}
