import CTurboJPEG
import CZlib

@testable import RFB

/// Reads a server's bytes.
struct Bytes {
  let all: [UInt8]
  var next = 0

  init(_ all: [UInt8]) { self.all = all }

  var isAtEnd: Bool { next >= all.count }

  mutating func take(_ count: Int) throws -> [UInt8] {
    guard count >= 0, next + count <= all.count else { throw Broken("ends after \(all.count)") }
    next += count
    return Array(all[next - count..<next])
  }
  mutating func u8() throws -> Int { Int(try take(1)[0]) }
  mutating func u16() throws -> Int { try number(2) }
  mutating func u32() throws -> Int { try number(4) }
  mutating func s32() throws -> Int { Int(Int32(truncatingIfNeeded: try number(4))) }
  private mutating func number(_ count: Int) throws -> Int {
    try take(count).reduce(0) { $0 << 8 | Int($1) }
  }
}

struct Broken: Error, CustomStringConvertible {
  let description: String
  init(_ text: String) { description = text }
}

/// One inflating stream.
final class Inflater {
  private let stream: UnsafeMutablePointer<z_stream>

  init() {
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    _ = inflateInit_(stream, ZLIB_VERSION, CInt(MemoryLayout<z_stream>.size))
  }

  deinit {
    inflateEnd(stream)
    stream.deallocate()
  }

  /// All that these bytes hold.
  func inflate(_ bytes: [UInt8]) throws -> [UInt8] {
    var out: [UInt8] = []
    var bytes = bytes
    var chunk = [UInt8](repeating: 0, count: 1 << 16)
    try bytes.withUnsafeMutableBufferPointer { input in
      stream.pointee.next_in = input.baseAddress
      stream.pointee.avail_in = uInt(input.count)
      while true {
        let room = chunk.count
        let (result, left) = chunk.withUnsafeMutableBufferPointer { target in
          stream.pointee.next_out = target.baseAddress
          stream.pointee.avail_out = uInt(room)
          return (CZlib.inflate(stream, Z_SYNC_FLUSH), Int(stream.pointee.avail_out))
        }
        out += chunk[..<(room - left)]
        guard result == Z_OK || result == Z_BUF_ERROR else { throw Broken("inflate \(result)") }
        if left > 0 { break }
      }
      guard stream.pointee.avail_in == 0 else { throw Broken("zlib data left over") }
    }
    return out
  }
}

/// What a viewer sees: a framebuffer made of a server's bytes, with the protocol's text in hand
/// and none of the server's code.
final class Viewer {
  /// As the viewer asked: bytes a pixel, byte order, then max and shift of red, green, blue.
  struct Format {
    var bits = 32
    var depth = 24
    var isBig = false
    var channels = [(255, 16), (255, 8), (255, 0)]

    var message: [UInt8] {
      var out: [UInt8] = [0, 0, 0, 0, UInt8(bits), UInt8(depth), isBig ? 1 : 0, 1]
      for (max, _) in channels { out += [UInt8(max >> 8), UInt8(max & 255)] }
      return out + channels.map { UInt8($0.1) } + [0, 0, 0]
    }

    /// The colour 0xRRGGBB of a pixel's bytes.
    func colour(_ bytes: [UInt8]) -> UInt32 {
      let ordered = isBig ? bytes : bytes.reversed()
      let value = ordered.reduce(0) { $0 << 8 | Int($1) }
      return channels.reduce(0) { sum, channel in
        sum << 8 | UInt32(((value >> channel.1 & channel.0) * 255 + channel.0 / 2) / channel.0)
      }
    }

    /// What is left of a colour in this format.
    func seen(_ colour: UInt32) -> UInt32 {
      zip([16, 8, 0], channels).reduce(0) { sum, pair in
        let value = Int(colour >> UInt32(pair.0) & 255)
        let max = pair.1.0
        let sent = (value * max + 127) / 255
        return sum << 8 | UInt32((sent * 255 + max / 2) / max)
      }
    }

    /// Three bytes for four, if all colours lie in them.
    var compactSide: Int? {
      guard bits == 32, depth <= 24 else { return nil }
      let used = channels.reduce(0) { $0 | $1.0 << $1.1 }
      if used & 0xff00_0000 == 0 { return 0 }
      return used & 0xff == 0 ? 1 : nil
    }
  }

  var format = Format()
  private(set) var width = 0
  private(set) var height = 0
  private(set) var pixels: [UInt32] = []
  private(set) var cursors: [(hotX: Int, hotY: Int, width: Int, height: Int, pixels: [UInt32])] = []
  private(set) var areas: [Area] = []
  private(set) var encodings: [Int] = []
  private(set) var sizes: [(reason: Int, status: Int, width: Int, height: Int)] = []
  private(set) var hasKeys = false
  private(set) var name = ""
  /// What Tight's JPEG pieces covered.
  private(set) var photos = 0
  private let zrle = Inflater()
  private let tight = (0..<4).map { _ in Inflater() }

  func resize(_ width: Int, _ height: Int) {
    self.width = width
    self.height = height
    pixels = [UInt32](repeating: 0xdead00, count: width * height)
  }

  /// ServerInit.
  func start(_ bytes: inout Bytes) throws {
    resize(try bytes.u16(), try bytes.u16())
    _ = try bytes.take(16)
    name = String(decoding: try bytes.take(try bytes.u32()), as: UTF8.self)
  }

  /// One message.
  func message(_ bytes: inout Bytes) throws {
    switch try bytes.u8() {
    case 0:
      _ = try bytes.u8()
      areas = []
      encodings = []
      for _ in 0..<(try bytes.u16()) { try rectangle(&bytes) }
    case 1:
      _ = try bytes.take(3)
      _ = try bytes.take(try bytes.u16() * 6)
    case let other: throw Broken("message \(other)")
    }
  }

  private func rectangle(_ bytes: inout Bytes) throws {
    let (x, y) = (try bytes.u16(), try bytes.u16())
    let (width, height) = (try bytes.u16(), try bytes.u16())
    let encoding = try bytes.s32()
    encodings.append(encoding)
    let area = Area(x: x, y: y, width: width, height: height)
    switch encoding {
    case 0, 7, 16:
      guard Area(width: self.width, height: self.height).contains(area) else {
        throw Broken("\(area) is outside of \(self.width)x\(self.height)")
      }
      areas.append(area)
      let colours =
        switch encoding {
        case 0: try (0..<area.count).map { _ in try pixel(&bytes) }
        case 7: try tight(&bytes, width, height)
        default: try zrle(&bytes, width, height)
        }
      for row in 0..<height {
        for column in 0..<width {
          pixels[(y + row) * self.width + x + column] = colours[row * width + column]
        }
      }
    case -223:
      sizes.append((0, 0, width, height))
      resize(width, height)
    case -308:
      sizes.append((x, y, width, height))
      let screens = try bytes.u8()
      _ = try bytes.take(3 + screens * 16)
      if y == 0, width != self.width || height != self.height { resize(width, height) }
    case -239:
      let colours = try (0..<area.count).map { _ in try pixel(&bytes) }
      let row = (width + 7) / 8
      let mask = try bytes.take(row * height)
      let shown = (0..<area.count).map { index -> UInt32 in
        let (y, x) = (index / max(width, 1), index % max(width, 1))
        let isSet = mask[y * row + x / 8] >> UInt8(7 - x % 8) & 1 == 1
        return isSet ? colours[index] | 0xff00_0000 : 0
      }
      cursors.append((x, y, width, height, shown))
    case -314:
      guard try bytes.u32() == 0 else { throw Broken("a cursor that is not raw") }
      let shown = try (0..<area.count).map { _ -> UInt32 in
        let p = try bytes.take(4).map { UInt32($0) }
        return p[3] << 24 | p[0] << 16 | p[1] << 8 | p[2]
      }
      cursors.append((x, y, width, height, shown))
    case -258: hasKeys = true
    default: throw Broken("encoding \(encoding)")
    }
  }

  private func pixel(_ bytes: inout Bytes) throws -> UInt32 {
    format.colour(try bytes.take(format.bits / 8))
  }

  private func compact(_ bytes: inout Bytes) throws -> UInt32 {
    guard let side = format.compactSide else { return try pixel(&bytes) }
    let three = try bytes.take(3)
    // The missing byte is the most significant one (side 0) or the least.
    let isFirst = (side == 0) == format.isBig
    return format.colour(isFirst ? [0] + three : three + [0])
  }

  private func zrle(_ outer: inout Bytes, _ width: Int, _ height: Int) throws -> [UInt32] {
    var bytes = Bytes(try zrle.inflate(try outer.take(try outer.u32())))
    var out = [UInt32](repeating: 0, count: width * height)
    for top in stride(from: 0, to: height, by: 64) {
      for left in stride(from: 0, to: width, by: 64) {
        let (w, h) = (min(64, width - left), min(64, height - top))
        let tile = try zrleTile(&bytes, w, h)
        for i in 0..<w * h { out[(top + i / w) * width + left + i % w] = tile[i] }
      }
    }
    guard bytes.isAtEnd else { throw Broken("ZRLE data left over") }
    return out
  }

  private func zrleTile(_ bytes: inout Bytes, _ w: Int, _ h: Int) throws -> [UInt32] {
    func run(_ bytes: inout Bytes) throws -> Int {
      var length = 1
      while true {
        let more = try bytes.u8()
        length += more
        if more != 255 { return length }
      }
    }
    let kind = try bytes.u8()
    switch kind {
    case 0: return try (0..<w * h).map { _ in try compact(&bytes) }
    case 1: return [UInt32](repeating: try compact(&bytes), count: w * h)
    case 2...16:
      let palette = try (0..<kind).map { _ in try compact(&bytes) }
      let bits = kind == 2 ? 1 : kind <= 4 ? 2 : 4
      return try (0..<h).flatMap { _ -> [UInt32] in
        let row = try bytes.take((w * bits + 7) / 8)
        return try (0..<w).map { x in
          let index = Int(row[x * bits / 8]) >> (8 - bits - x * bits % 8) & (1 << bits - 1)
          guard index < kind else { throw Broken("palette index \(index)") }
          return palette[index]
        }
      }
    case 128:
      var out: [UInt32] = []
      while out.count < w * h {
        let colour = try compact(&bytes)
        out += [UInt32](repeating: colour, count: try run(&bytes))
      }
      guard out.count == w * h else { throw Broken("a run too long") }
      return out
    case 130...255:
      let palette = try (0..<kind - 128).map { _ in try compact(&bytes) }
      var out: [UInt32] = []
      while out.count < w * h {
        let index = try bytes.u8()
        guard index & 127 < palette.count else { throw Broken("palette index \(index)") }
        out += [UInt32](
          repeating: palette[index & 127], count: index < 128 ? 1 : try run(&bytes))
      }
      guard out.count == w * h else { throw Broken("a run too long") }
      return out
    default: throw Broken("ZRLE tile \(kind)")
    }
  }

  private func tight(_ bytes: inout Bytes, _ w: Int, _ h: Int) throws -> [UInt32] {
    let isCompact =
      format.bits == 32 && format.depth == 24 && format.channels.allSatisfy { $0.0 == 255 }
    func colour(_ bytes: inout Bytes) throws -> UInt32 {
      guard isCompact else { return try pixel(&bytes) }
      return try bytes.take(3).reduce(0) { $0 << 8 | UInt32($1) }
    }
    func length(_ bytes: inout Bytes) throws -> Int {
      var value = try bytes.u8()
      guard value & 128 != 0 else { return value }
      value = value & 127 | (try bytes.u8()) << 7
      guard value & 1 << 14 != 0 else { return value }
      return value & (1 << 14 - 1) | (try bytes.u8()) << 14
    }
    let control = try bytes.u8()
    for stream in 0..<4 where control >> stream & 1 == 1 { throw Broken("a stream is reset") }
    switch control >> 4 {
    case 8: return [UInt32](repeating: try colour(&bytes), count: w * h)
    case 9:
      photos += w * h
      return try jpeg(try bytes.take(try length(&bytes)), w, h)
    case 0...7: break
    default: throw Broken("Tight control \(control)")
    }
    let filter = control & 0x40 != 0 ? try bytes.u8() : 0
    var palette: [UInt32] = []
    var count = w * h * (isCompact ? 3 : format.bits / 8)
    if filter == 1 {
      palette = try (0..<(try bytes.u8()) + 1).map { _ in try colour(&bytes) }
      count = palette.count == 2 ? (w + 7) / 8 * h : w * h
    } else if filter != 0 {
      throw Broken("Tight filter \(filter)")
    }
    let plain =
      count < 12
      ? try bytes.take(count)
      : try tight[control >> 4 & 3].inflate(try bytes.take(try length(&bytes)))
    guard plain.count == count else { throw Broken("Tight has \(plain.count) of \(count)") }
    if palette.isEmpty {
      var inner = Bytes(plain)
      return try (0..<w * h).map { _ in try colour(&inner) }
    }
    if palette.count == 2 {
      let row = (w + 7) / 8
      return (0..<w * h).map { index in
        let (x, y) = (index % w, index / w)
        let byte = Int(plain[y * row + x / 8])
        return palette[byte >> (7 - x % 8) & 1]
      }
    }
    return try plain.map {
      guard Int($0) < palette.count else { throw Broken("palette index \($0)") }
      return palette[Int($0)]
    }
  }

  private func jpeg(_ data: [UInt8], _ w: Int, _ h: Int) throws -> [UInt32] {
    let handle = tjInitDecompress()
    defer { tjDestroy(handle) }
    var out = [UInt8](repeating: 0, count: w * h * 3)
    guard
      tjDecompress2(
        handle, data, UInt(data.count), &out, CInt(w), 0, CInt(h), CInt(TJPF_RGB.rawValue), 0) == 0
    else { throw Broken("JPEG") }
    return (0..<w * h).map { index in
      out[index * 3..<index * 3 + 3].reduce(0) { $0 << 8 | UInt32($1) }
    }
  }
}
