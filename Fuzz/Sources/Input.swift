/// The bytes of one input, taken from the front; zeros once they are used up.
struct Input {
  private let bytes: UnsafeRawBufferPointer
  private var at = 0

  init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  var isEmpty: Bool { at >= bytes.count }

  mutating func u8() -> UInt8 {
    guard at < bytes.count else { return 0 }
    defer { at += 1 }
    return bytes[at]
  }

  mutating func u16() -> UInt16 { UInt16(u8()) | UInt16(u8()) << 8 }
  mutating func u32() -> UInt32 { UInt32(u16()) | UInt32(u16()) << 16 }
  mutating func u64() -> UInt64 { UInt64(u32()) | UInt64(u32()) << 32 }
  mutating func flag() -> Bool { u8() & 1 != 0 }

  /// A number that is mostly small and sometimes at the edge of something.
  mutating func number() -> UInt32 {
    let byte = u8()
    switch byte {
    case 0xf8: return UInt32(u16())
    case 0xf9: return u32()
    case 0xfa: return 1 << 14
    case 0xfb: return (1 << 14) + 1
    case 0xfc: return 1 << 31
    case 0xfd: return .max - 1
    case 0xfe: return .max
    case 0xff: return UInt32(Int32.max)
    default: return UInt32(byte)
    }
  }

  /// At most `count` bytes.
  mutating func take(_ count: Int) -> [UInt8] {
    let end = min(at + count, bytes.count)
    defer { at = end }
    return Array(bytes[min(at, end)..<end])
  }

  mutating func rest() -> [UInt8] { take(bytes.count) }
}

/// Writes what ``Input`` reads: for seeds.
struct Script {
  private(set) var bytes: [UInt8] = []

  mutating func u8(_ value: UInt8) { bytes.append(value) }
  mutating func number(_ value: UInt32) {
    if value < 0xf8 { return u8(UInt8(value)) }
    u8(0xf9)
    put(value)
  }
  mutating func put<T: FixedWidthInteger>(_ value: T) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }
  mutating func raw(_ more: [UInt8]) { bytes.append(contentsOf: more) }
}
