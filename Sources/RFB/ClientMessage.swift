/// What a viewer says (RFC 6143 section 7.5, and the extensions that are announced to it).
public enum ClientMessage: Equatable, Sendable {
  /// The protocol version that it speaks, of those in ``RFBVersion``.
  case version(RFBVersion)
  /// The security type that it chose.
  case security(UInt8)
  /// ClientInit. Whether others may stay is not asked: they may.
  case start
  /// How it wants its pixels.
  case pixels(ClientPixels)
  /// The encodings that it knows, the best first.
  case encodings([Int32])
  /// It has room for an update of these pixels: of what is new, or of all.
  case request(Area, isIncremental: Bool)
  /// A key by its X11 keysym.
  case key(keysym: UInt32, isDown: Bool)
  /// A key by its XT scan code too (QEMU's extension); 0x80 is set for those behind 0xE0.
  case scanCode(UInt32, keysym: UInt32, isDown: Bool)
  /// The pointer's place and its buttons, bit 0 for the left one.
  case pointer(x: UInt16, y: UInt16, buttons: UInt8)
  /// It asks for another size of the desktop (ExtendedDesktopSize).
  case resize(width: UInt16, height: UInt16)
}

/// The versions of the protocol that differ.
public enum RFBVersion: Sendable {
  /// The server chooses the security.
  case v3_3
  /// The viewer does.
  case v3_7
  /// And is told whether that went well.
  case v3_8
}

/// Cuts a viewer's bytes into messages. It keeps no more of them than one message of 4 KiB.
struct ClientParser {
  private enum Stage {
    case version, security, start, session
  }

  private var stage = Stage.version
  private var speaks = RFBVersion.v3_8
  private var bytes: [UInt8] = []
  private var next = 0
  /// Bytes that are passed over: clipboards, and encodings beyond the first thousand.
  private var skip: UInt64 = 0

  /// Takes what was received.
  mutating func feed(_ received: Span<UInt8>) {
    var start = 0
    if next == bytes.count, skip > 0 {
      start = Int(min(skip, UInt64(received.count)))
      skip -= UInt64(start)
    }
    if next > 0 {
      bytes.removeSubrange(..<next)
      next = 0
    }
    bytes.reserveCapacity(bytes.count + received.count - start)
    for index in start..<received.count { bytes.append(received[index]) }
  }

  /// Bytes that wait for the rest of their message.
  var pending: Int { bytes.count - next }

  /// The next message; nil until more bytes are there.
  ///
  /// - Throws: ``RFBError`` at what is no message; nothing can be read after it.
  mutating func message() throws(RFBError) -> ClientMessage? {
    switch stage {
    case .version:
      guard let field = take(12) else { return nil }
      speaks = try version(field)
      stage = speaks == .v3_3 ? .start : .security
      return .version(speaks)
    case .security:
      guard let field = take(1) else { return nil }
      stage = .start
      return .security(field[field.startIndex])
    case .start:
      guard take(1) != nil else { return nil }
      stage = .session
      return .start
    case .session:
      while true {
        skipAhead()
        guard skip == 0, next < bytes.count else { return nil }
        let before = next
        switch try parsed() {
        case .message(let message): return message
        case .nothing: continue
        case .more:
          next = before
          return nil
        }
      }
    }
  }

  private enum Parsed {
    case message(ClientMessage), nothing, more
  }

  private mutating func parsed() throws(RFBError) -> Parsed {
    guard let kind = take(1)?.first else { return .more }
    switch kind {
    case 0:
      guard let field = take(19) else { return .more }
      return .message(.pixels(try ClientPixels(field.dropFirst(3))))
    case 2: return encodings()
    case 3:
      guard let field = take(9) else { return .more }
      let area = Area(
        x: Int(u16(field, 1)), y: Int(u16(field, 3)), width: Int(u16(field, 5)),
        height: Int(u16(field, 7)))
      return .message(.request(area, isIncremental: u8(field, 0) != 0))
    case 4:
      guard let field = take(7) else { return .more }
      return .message(.key(keysym: u32(field, 3), isDown: u8(field, 0) != 0))
    case 5:
      guard let field = take(5) else { return .more }
      return .message(.pointer(x: u16(field, 1), y: u16(field, 3), buttons: u8(field, 0)))
    case 6:
      guard let field = take(7) else { return .more }
      // A negative length is that of an extended clipboard, which nobody offered.
      skip = UInt64(Int32(bitPattern: u32(field, 3)).magnitude)
      return .nothing
    case 251:
      guard let field = take(7) else { return .more }
      skip = UInt64(u8(field, 5)) * 16
      return .message(.resize(width: u16(field, 1), height: u16(field, 3)))
    case 255:
      guard let field = take(11) else { return .more }
      guard u8(field, 0) == 0 else {
        throw RFBError("a message of QEMU's with the number \(u8(field, 0)); 0 (keys) is known")
      }
      return .message(
        .scanCode(u32(field, 7), keysym: u32(field, 3), isDown: u16(field, 1) != 0))
    default: throw RFBError("a message with the number \(kind), which was not offered")
    }
  }

  private mutating func encodings() -> Parsed {
    guard let head = take(3) else { return .more }
    let count = Int(u16(head, 1))
    let kept = min(count, 1000)
    guard let field = take(kept * 4) else { return .more }
    skip = UInt64(count - kept) * 4
    return .message(
      .encodings((0..<kept).map { Int32(bitPattern: u32(field, $0 * 4)) }))
  }

  private func version(_ field: ArraySlice<UInt8>) throws(RFBError) -> RFBVersion {
    let text = [UInt8](field)
    func number(_ range: Range<Int>) -> Int? {
      text[range].reduce(0) { sum, digit in
        guard let sum, (48...57).contains(digit) else { return nil }
        return sum * 10 + Int(digit) - 48
      }
    }
    guard text[0..<4].elementsEqual("RFB ".utf8), text[7] == 46, text[11] == 10,
      let major = number(4..<7), let minor = number(8..<11)
    else { throw RFBError("no version of RFB at the beginning") }
    guard (major, minor) >= (3, 3) else { throw RFBError("RFB \(major).\(minor); 3.3 is needed") }
    // Others than 3.7 and 3.8 are to be taken for 3.3, says the RFC; Apple's 3.889 is a 3.8.
    if (major, minor) >= (3, 8) { return .v3_8 }
    return minor == 7 ? .v3_7 : .v3_3
  }

  private mutating func skipAhead() {
    let here = Int(min(skip, UInt64(bytes.count - next)))
    next += here
    skip -= UInt64(here)
  }

  private mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
    guard bytes.count - next >= count else { return nil }
    next += count
    return bytes[next - count..<next]
  }

  private func u8(_ field: ArraySlice<UInt8>, _ offset: Int) -> UInt8 {
    field[field.startIndex + offset]
  }
  private func u16(_ field: ArraySlice<UInt8>, _ offset: Int) -> UInt16 {
    UInt16(u8(field, offset)) << 8 | UInt16(u8(field, offset + 1))
  }
  private func u32(_ field: ArraySlice<UInt8>, _ offset: Int) -> UInt32 {
    UInt32(u16(field, offset)) << 16 | UInt32(u16(field, offset + 2))
  }
}
