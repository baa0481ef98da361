/// How a viewer wants its pixels (RFC 6143 section 7.4, PIXEL_FORMAT).
public struct ClientPixels: Equatable, Sendable {
  /// 8, 16 or 32 bits a pixel.
  public let bits: Int
  /// Bits that carry colour.
  public let depth: Int
  /// The most significant byte comes first.
  public let isBigEndian: Bool
  /// Where red is.
  public let red: Channel
  /// Where green is.
  public let green: Channel
  /// Where blue is.
  public let blue: Channel
  /// The pixel is an index into a colour map, which is 3 bits red, 3 green, 2 blue.
  public let isMapped: Bool

  /// One colour of a pixel.
  public struct Channel: Equatable, Sendable {
    /// Its largest value, at most 65535.
    public let max: UInt32
    /// Where its lowest bit is.
    public let shift: UInt32

    /// An 8-bit value as this channel has it.
    @inline(__always) func encode(_ value: UInt32) -> UInt32 {
      max == 255 ? value &<< shift : ((value &* max &+ 127) / 255) &<< shift
    }
  }

  /// 0x00RRGGBB, the lowest byte first: what we announce.
  public static let native = ClientPixels(
    bits: 32, depth: 24, isBigEndian: false, red: Channel(max: 255, shift: 16),
    green: Channel(max: 255, shift: 8), blue: Channel(max: 255, shift: 0), isMapped: false)

  private init(
    bits: Int, depth: Int, isBigEndian: Bool, red: Channel, green: Channel, blue: Channel,
    isMapped: Bool
  ) {
    self.bits = bits
    self.depth = depth
    self.isBigEndian = isBigEndian
    self.red = red
    self.green = green
    self.blue = blue
    self.isMapped = isMapped
  }

  /// Reads the 16 bytes of a PIXEL_FORMAT.
  ///
  /// - Throws: ``RFBError`` for other sizes than 8, 16 and 32, and for channels that do not lie
  ///   inside of the pixel.
  init(_ field: ArraySlice<UInt8>) throws(RFBError) {
    let bytes = [UInt8](field)
    guard bytes.count == 16, [8, 16, 32].contains(bytes[0]) else {
      throw RFBError("a pixel format of \(bytes.first ?? 0) bits a pixel; 8, 16 and 32 are known")
    }
    let bits = Int(bytes[0])
    func channel(_ max: Int, _ shift: Int) throws(RFBError) -> Channel {
      let largest = UInt32(bytes[max]) << 8 | UInt32(bytes[max + 1])
      let used = 32 - largest.leadingZeroBitCount
      guard largest > 0, Int(bytes[shift]) + used <= bits else {
        throw RFBError(
          "a pixel format whose colours up to \(largest), shifted by \(bytes[shift]), "
            + "do not fit into \(bits) bits")
      }
      return Channel(max: largest, shift: UInt32(bytes[shift]))
    }
    if bytes[3] == 0 {
      guard bits == 8 else { throw RFBError("a colour map with \(bits) bits a pixel") }
      self.init(
        bits: 8, depth: 8, isBigEndian: false, red: Channel(max: 7, shift: 0),
        green: Channel(max: 7, shift: 3), blue: Channel(max: 3, shift: 6), isMapped: true)
    } else {
      self.init(
        bits: bits, depth: Int(bytes[1]), isBigEndian: bytes[2] != 0,
        red: try channel(4, 10), green: try channel(6, 11), blue: try channel(8, 12),
        isMapped: false)
    }
  }

  /// The 16 bytes of this PIXEL_FORMAT.
  var field: [UInt8] {
    var out: [UInt8] = [UInt8(bits), UInt8(depth), isBigEndian ? 1 : 0, isMapped ? 0 : 1]
    for channel in [red, green, blue] { out.put(UInt16(channel.max)) }
    out += [red, green, blue].map { UInt8($0.shift) } + [0, 0, 0]
    return out
  }

  /// 0x00RRGGBB goes out as it is.
  var isNative: Bool { self.sameLayout(as: .native) }

  private func sameLayout(as other: ClientPixels) -> Bool {
    bits == other.bits && isBigEndian == other.isBigEndian && red == other.red
      && green == other.green && blue == other.blue && !isMapped
  }

  /// The colour map that goes with ``isMapped``: 256 times red, green, blue of 16 bits.
  var map: [UInt16] {
    var map: [UInt16] = []
    for index in 0..<256 {
      let (red, green, blue) = (index & 7, index >> 3 & 7, index >> 6)
      map += [red * 65535 / 7, green * 65535 / 7, blue * 65535 / 3].map { UInt16($0) }
    }
    return map
  }

  /// A colour 0x00RRGGBB as a pixel of this format.
  @inline(__always) func value(_ colour: UInt32) -> UInt32 {
    red.encode(colour &>> 16 & 255) | green.encode(colour &>> 8 & 255)
      | blue.encode(colour & 255)
  }

  /// ZRLE's CPIXEL (section 7.7.5): which three of four bytes, in the order sent.
  var compact: Bool {
    bits == 32 && depth <= 24 && !isMapped && (colourBits & 0xff00_0000 == 0 || fitsHigh)
  }

  private var fitsHigh: Bool { colourBits & 0xff == 0 }

  private var colourBits: UInt32 {
    red.max << red.shift | green.max << green.shift | blue.max << blue.shift
  }

  /// Tight's TPIXEL: red, green, blue bytes.
  var tightCompact: Bool {
    bits == 32 && depth == 24 && red.max == 255 && green.max == 255 && blue.max == 255
  }

  /// Appends colours as PIXELs.
  func append(_ colours: Span<UInt32>, to out: inout [UInt8]) {
    let bytes = bits / 8
    out.reserveCapacity(out.count + colours.count * bytes)
    if bits == 32, isNative {
      for index in colours.indices { out.putLittle(colours[index] & 0xff_ffff) }
      return
    }
    for index in colours.indices { append(colours[index], to: &out) }
  }

  /// Appends one colour as a PIXEL.
  @inline(__always) func append(_ colour: UInt32, to out: inout [UInt8]) {
    let value = value(colour)
    switch bits {
    case 8: out.append(UInt8(truncatingIfNeeded: value))
    case 16:
      let half = UInt16(truncatingIfNeeded: value)
      if isBigEndian { out.put(half) } else { out.put(half.byteSwapped) }
    default:
      if isBigEndian { out.put(value) } else { out.putLittle(value) }
    }
  }

  /// Appends one colour as a CPIXEL.
  @inline(__always) func appendCompact(_ colour: UInt32, to out: inout [UInt8]) {
    guard compact else { return append(colour, to: &out) }
    var value = value(colour)
    // The byte without colour is the highest, or else the lowest.
    if colourBits & 0xff00_0000 != 0 { value >>= 8 }
    if isBigEndian { value = value.byteSwapped >> 8 }
    out.append(UInt8(truncatingIfNeeded: value))
    out.append(UInt8(truncatingIfNeeded: value >> 8))
    out.append(UInt8(truncatingIfNeeded: value >> 16))
  }

  /// Appends one colour as a TPIXEL.
  @inline(__always) func appendTight(_ colour: UInt32, to out: inout [UInt8]) {
    guard tightCompact else { return append(colour, to: &out) }
    out.append(UInt8(truncatingIfNeeded: colour >> 16))
    out.append(UInt8(truncatingIfNeeded: colour >> 8))
    out.append(UInt8(truncatingIfNeeded: colour))
  }
}

extension [UInt8] {
  /// Appends in network order.
  @inline(__always) mutating func put(_ value: UInt16) {
    append(UInt8(truncatingIfNeeded: value >> 8))
    append(UInt8(truncatingIfNeeded: value))
  }

  /// Appends in network order.
  @inline(__always) mutating func put(_ value: UInt32) {
    put(UInt16(truncatingIfNeeded: value >> 16))
    put(UInt16(truncatingIfNeeded: value))
  }

  /// Appends the lowest byte first.
  @inline(__always) mutating func putLittle(_ value: UInt32) { put(value.byteSwapped) }

  /// Appends a number below 65536 in network order; larger ones as 65535.
  mutating func put16(_ value: Int) { put(UInt16(clamping: value)) }

  /// Appends RFB's rectangle header.
  mutating func put(_ area: Area, encoding: Int32) {
    put16(area.x)
    put16(area.y)
    put16(area.width)
    put16(area.height)
    put(UInt32(bitPattern: encoding))
  }
}

/// A viewer said something that ends its connection: what, in words.
public struct RFBError: Error, Equatable, CustomStringConvertible, Sendable {
  /// What the viewer said, and what is known.
  public let description: String
  init(_ description: String) { self.description = description }
}
