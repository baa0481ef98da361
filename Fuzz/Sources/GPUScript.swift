import CLinux

/// Commands in few bytes: type, flags, and the numbers that matter.
enum GPUScript {
  /// The low bits of the kind; kinds from 0xf0 go to the cursor queue.
  enum Kind: UInt8, CaseIterable {
    case createImage
    case createBlob
    case unref
    case attach
    case detach
    case transfer
    case setScanout
    case setScanoutBlob
    case flush
    case displayInfo
    case edid
    case assignUUID
    case updateCursor
    case moveCursor
    case capset
    /// Any number as the type.
    case other
  }

  private static let types: [Kind: UInt32] = [
    .createImage: 0x101, .createBlob: 0x10c, .unref: 0x102, .attach: 0x106, .detach: 0x107,
    .transfer: 0x105, .setScanout: 0x103, .setScanoutBlob: 0x10d, .flush: 0x104,
    .displayInfo: 0x100, .edid: 0x10a, .assignUUID: 0x10b, .updateCursor: 0x300,
    .moveCursor: 0x301, .capset: 0x108,
  ]

  /// Kind and its high bit (a fence), resource, then the rest as the command needs it.
  static func read(_ kind: UInt8, _ input: inout Input) -> [UInt8] {
    let command = Kind(rawValue: kind & 15) ?? .other
    var out = Script()
    out.put(types[command] ?? input.number())
    out.put(UInt32(kind >> 7))
    out.put(UInt64(kind))
    out.put(0 as UInt64)
    body(command, &input, &out)
    return out.bytes
  }

  private static func body(_ command: Kind, _ input: inout Input, _ out: inout Script) {
    switch command {
    case .createImage: numbers([.plain, .format, .plain, .plain], &input, &out)
    case .createBlob:
      numbers([.plain, .plain, .plain], &input, &out)
      let entries = entries(&input)
      out.put(entries.claimed)
      out.put(0 as UInt64)
      out.put(UInt64(input.number()) << (input.flag() ? 12 : 0))
      out.raw(entries.bytes)
    case .attach:
      numbers([.plain], &input, &out)
      let entries = entries(&input)
      out.put(entries.claimed)
      out.raw(entries.bytes)
    case .unref, .detach, .edid, .assignUUID, .capset:
      numbers([.plain, .plain], &input, &out)
    case .transfer:
      numbers([.plain, .plain, .plain, .plain], &input, &out)
      out.put(UInt64(input.number()) << (input.flag() ? 8 : 0))
      numbers([.plain, .plain], &input, &out)
    case .setScanout: numbers([.plain, .plain, .plain, .plain, .plain, .plain], &input, &out)
    case .flush: numbers([.plain, .plain, .plain, .plain, .plain, .plain], &input, &out)
    case .setScanoutBlob:
      numbers([.plain, .plain, .plain, .plain, .plain, .plain], &input, &out)
      numbers([.plain, .plain, .format, .zero], &input, &out)
      numbers([.times16, .zero, .zero, .zero], &input, &out)
      numbers([.plain, .zero, .zero, .zero], &input, &out)
    case .updateCursor, .moveCursor:
      numbers([.plain, .plain, .plain, .zero, .plain, .plain, .plain, .zero], &input, &out)
    case .displayInfo, .other: out.raw(input.take(Int(input.u8() & 63)))
    }
  }

  enum Field { case plain, zero, format, times16 }

  private static func numbers(_ fields: [Field], _ input: inout Input, _ out: inout Script) {
    for field in fields {
      switch field {
      case .plain: out.put(input.number())
      case .zero: out.put(0 as UInt32)
      case .times16: out.put(input.number() &* 16)
      case .format:
        let byte = input.u8()
        let formats: [UInt32] = [1, 2, 3, 4, 67, 68, 121, 134]
        out.put(byte < 0xf0 ? formats[Int(byte) % formats.count] : UInt32(byte))
      }
    }
  }

  /// Count (the high bit: the command claims another), then pages or, at 0xff, anything.
  private static func entries(_ input: inout Input) -> (claimed: UInt32, bytes: [UInt8]) {
    let count = input.u8()
    var out = Script()
    for _ in 0..<(count & 31) {
      let page = input.u8()
      if page == 0xff {
        out.put(input.u64())
        out.put(input.u32())
      } else {
        out.put(UInt64(page) * 4096)
        out.put(UInt32(input.u8()) * 4096)
      }
      out.put(0 as UInt32)
    }
    return (count & 0x80 == 0 ? UInt32(count & 31) : input.number(), out.bytes)
  }
}
