/// Requests for 3D in few bytes, virtio 1.3 §5.7.6.8: type, context, and the numbers that matter.
enum GPU3DScript {
  /// The low bits of the kind; the highest asks for a fence, the next for a ring of its own.
  enum Kind: UInt8, CaseIterable {
    case createContext
    case destroyContext
    case attach
    case detach
    case create
    case transferToHost
    case transferFromHost
    case submit
    case attachBacking
    case detachBacking
    case unref
    case setScanout
    case flush
    case transfer2D
    case updateCursor
    case capsetInfo
    case capset
    /// Any number as the type.
    case other

    static func of(_ byte: UInt8) -> Kind {
      Kind(rawValue: (byte & 0x3f) % UInt8(allCases.count)) ?? .other
    }
  }

  private static let types: [Kind: UInt32] = [
    .createContext: 0x200, .destroyContext: 0x201, .attach: 0x202, .detach: 0x203,
    .create: 0x204, .transferToHost: 0x205, .transferFromHost: 0x206, .submit: 0x207,
    .attachBacking: 0x106, .detachBacking: 0x107, .unref: 0x102, .setScanout: 0x103,
    .flush: 0x104, .transfer2D: 0x105, .updateCursor: 0x300, .capsetInfo: 0x108, .capset: 0x109,
  ]

  static func read(_ kind: UInt8, _ input: inout Input) -> [UInt8] {
    let command = Kind.of(kind)
    var out = Script()
    let place = input.u8()
    out.put(types[command] ?? input.number())
    out.put(UInt32(kind >> 7) | UInt32(kind >> 5 & 2))
    out.put(UInt64(kind))
    out.put(UInt32(place & 7))
    out.put(UInt32(place >> 5))
    body(command, &input, &out)
    return out.bytes
  }

  private static func body(_ command: Kind, _ input: inout Input, _ out: inout Script) {
    switch command {
    case .createContext:
      let length = input.number()
      out.put(length)
      out.put(0 as UInt32)
      let name = input.take(min(Int(length), 64))
      out.raw(name + [UInt8](repeating: 0, count: 64 - name.count))
    case .destroyContext: break
    case .attach, .detach, .detachBacking, .unref, .capsetInfo, .capset: numbers(2, &input, &out)
    case .create:
      numbers(11, &input, &out)
      out.put(0 as UInt32)
    case .transferToHost, .transferFromHost:
      numbers(6, &input, &out)
      out.put(UInt64(input.number()) << (input.flag() ? 12 : 0))
      numbers(4, &input, &out)
    case .submit:
      out.put(input.number())
      out.put(0 as UInt32)
      out.raw(input.take(Int(input.u8())))
    case .attachBacking:
      numbers(1, &input, &out)
      let count = input.u8()
      out.put(count & 0x80 == 0 ? UInt32(count & 31) : input.number())
      for _ in 0..<(count & 31) {
        out.put(UInt64(input.u8()) * 4096)
        out.put(UInt32(input.u8()) * 4096)
        out.put(0 as UInt32)
      }
    case .setScanout, .flush: numbers(6, &input, &out)
    case .transfer2D:
      numbers(4, &input, &out)
      out.put(UInt64(input.number()))
      numbers(2, &input, &out)
    case .updateCursor:
      numbers(3, &input, &out)
      out.put(0 as UInt32)
      numbers(3, &input, &out)
      out.put(0 as UInt32)
    case .other: out.raw(input.take(Int(input.u8() & 63)))
    }
  }

  private static func numbers(_ count: Int, _ input: inout Input, _ out: inout Script) {
    for _ in 0..<count { out.put(input.number()) }
  }
}
