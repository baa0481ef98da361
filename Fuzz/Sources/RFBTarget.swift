import RFB

/// A VNC viewer that says anything, while the guest draws.
enum RFBTarget {
  /// What the bytes of an input mean.
  enum Step: UInt8, CaseIterable {
    /// Bytes as they are.
    case raw
    /// The version, the security and ClientInit.
    case hello
    case pixels
    case encodings
    case request
    case damage
    case resize
    case cursor
    /// The viewer takes some of what is there.
    case take
    /// It takes all, and all that comes of it.
    case drain
    case refine
  }

  /// A picture whose colours follow from their places.
  private final class Picture: RFBPicture {
    var width = 40
    var height = 30
    var kind: UInt32 = 0

    func read(_ area: Area, into colours: inout [UInt32]) {
      colours.removeAll(keepingCapacity: true)
      for y in area.y..<area.bottom {
        for x in area.x..<area.right {
          let isInside = x < width && y < height
          colours.append(isInside ? (UInt32(x) &* 7 ^ UInt32(y) &* kind) & 0xff_ffff : 0)
        }
      }
      claim(colours.count <= RFBSession.pieceLimit, "a piece of \(colours.count) pixels")
    }
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let picture = Picture()
    let session = RFBSession(name: "fuzz", picture: picture)
    do throws(RFBError) {
      for _ in 0..<256 where !input.isEmpty {
        try step(&input, session, picture)
        let waiting = session.outgoing.count - session.sentCount
        claim(waiting <= RFBSession.pieceLimit * 5 + 65_536, "\(waiting) bytes wait")
        claim(session.dirty.areas.count <= 64, "\(session.dirty.areas.count) areas")
        claim(!session.isHungry || !session.hasWork, "it has something and waits")
      }
    } catch { claim(!error.description.isEmpty, "an error without words") }
  }

  private static func step(
    _ input: inout Input, _ session: RFBSession, _ picture: Picture
  ) throws(RFBError) {
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .raw: try say(input.take(Int(input.u16()) % 1100), session)
    case .hello: try say([UInt8]("RFB 003.008\n".utf8) + [1, 1], session)
    case .pixels: try say([0, 0, 0, 0] + input.take(13) + [0, 0, 0], session)
    case .encodings:
      let list = (0..<Int(input.u8() % 8)).map { _ in number(input.u8()) }
      var bytes: [UInt8] = [2, 0, 0, UInt8(list.count)]
      for number in list {
        let bits = UInt32(bitPattern: number)
        bytes += [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: bits >> $0) }
      }
      try say(bytes, session)
    case .request: try say([3] + input.take(9), session)
    case .damage: session.damaged(area(&input))
    case .resize:
      picture.width = Int(input.u8()) + 1
      picture.height = Int(input.u8()) + 1
      // Now and then more than a piece.
      if input.flag() { picture.width *= 9 }
      session.replaced()
    case .cursor:
      let (width, height) = (Int(input.u8() % 40), Int(input.u8() % 40))
      let pixels = (0..<width * height).map { UInt32($0) &* 0x1020_3040 }
      let image = CursorImage(
        width: width, height: height, hotX: Int(input.u8()), hotY: Int(input.u8()), pixels: pixels)
      session.show(
        cursor: image, x: Int(Int32(bitPattern: input.number())),
        y: Int(Int32(bitPattern: input.number())))
    case .take:
      picture.kind &+= 1
      try session.produce()
      session.sent(Int(input.u16()))
    case .drain:
      var rounds = 0
      repeat {
        session.sent(session.outgoing.count)
        try session.produce()
        rounds += 1
      } while session.hasOutgoing && rounds < 64
    case .refine, nil: session.refine()
    }
  }

  private static func say(_ bytes: [UInt8], _ session: RFBSession) throws(RFBError) {
    _ = try session.receive(bytes.span)
  }

  private static func area(_ input: inout Input) -> Area {
    Area(
      x: Int(input.u8()), y: Int(input.u8()), width: Int(input.u8()), height: Int(input.u8()))
  }

  /// Encodings that are known, and others.
  private static func number(_ byte: UInt8) -> Int32 {
    let known: [Int32] = [0, 7, 16, -223, -239, -258, -308, -314, -24, -32, -247, -256]
    return Int(byte) < known.count * 8 ? known[Int(byte) / 8] : Int32(Int8(bitPattern: byte))
  }
}

/// Viewers that behave.
enum RFBSeeds {
  private typealias Step = RFBTarget.Step

  static var all: [String: [UInt8]] {
    [
      "raw": hello + encodings([0, 3, 6]) + full + drain + damage + part + drain,
      "zrle": hello + encodings([2, 3]) + full + drain + damage + part + take + drain,
      "tight": hello + encodings([1, 8, 10]) + full + drain + [Step.refine.rawValue] + part + drain,
      "sizes": hello + encodings([2, 6]) + full + drain + resize + part + drain + full + drain,
      "cursor": hello + encodings([0, 7]) + cursor + full + drain + encodings([0, 4]) + full
        + drain,
      "keys": hello + encodings([0, 5]) + full + drain
        + raw([255, 0, 0, 1, 0, 0, 0, 97, 0, 0, 0, 30, 4, 1, 0, 0, 0, 0, 0, 97, 5, 1, 0, 9, 0, 9]),
      "565": hello
        + [Step.pixels.rawValue, 16, 16, 1, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0]
        + encodings([2]) + full + drain,
      "map": hello + [Step.pixels.rawValue, 8, 8, 0, 0] + [UInt8](repeating: 0, count: 9) + full
        + drain,
      "3.3": raw([UInt8]("RFB 003.003\n".utf8) + [0]) + full + drain,
      "clipboard": hello + raw([6, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]) + full + drain,
    ]
  }

  private static let hello = [Step.hello.rawValue, Step.drain.rawValue]
  private static let full = [Step.request.rawValue, 0, 0, 0, 0, 0, 0, 40, 0, 30]
  private static let part = [Step.request.rawValue, 1, 0, 0, 0, 0, 0, 255, 0, 255]
  private static let drain = [Step.drain.rawValue]
  private static let take = [Step.take.rawValue, 100, 0]
  private static let damage = [Step.damage.rawValue, 3, 4, 20, 9]
  private static let resize = [Step.resize.rawValue, 70, 90, 0]
  private static let cursor = [Step.cursor.rawValue, 9, 7, 1, 1, 5, 6]
  private static func encodings(_ indices: [UInt8]) -> [UInt8] {
    [Step.encodings.rawValue, UInt8(indices.count)] + indices.map { $0 * 8 }
  }
  private static func raw(_ bytes: [UInt8]) -> [UInt8] {
    [Step.raw.rawValue, UInt8(bytes.count), 0] + bytes
  }
}
