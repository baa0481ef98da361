import Testing

@testable import RFB

/// A picture in memory that tests change.
final class TestPicture: RFBPicture {
  var width: Int
  var height: Int
  var pixels: [UInt32]

  init(_ width: Int, _ height: Int, _ colour: (Int, Int) -> UInt32 = { _, _ in 0 }) {
    self.width = width
    self.height = height
    pixels = []
    draw(colour)
  }

  func draw(_ colour: (Int, Int) -> UInt32) {
    pixels = (0..<width * height).map { colour($0 % width, $0 / width) & 0xff_ffff }
  }

  func read(_ area: Area, into colours: inout [UInt32]) {
    colours = (0..<area.count).map {
      let (x, y) = (area.x + $0 % area.width, area.y + $0 / area.width)
      return x < width && y < height ? pixels[y * width + x] : 0
    }
  }
}

/// A viewer at a session, past the handshake.
final class Watching {
  let session: RFBSession
  let viewer = Viewer()
  let picture: TestPicture

  init(_ picture: TestPicture, _ encodings: [Int32], _ format: Viewer.Format = .init()) throws {
    self.picture = picture
    session = RFBSession(name: "test", picture: picture)
    try say([UInt8]("RFB 003.008\n".utf8))
    try say([1])
    try say([1])
    var bytes = Bytes(taken())
    #expect(try bytes.take(12) == [UInt8]("RFB 003.008\n".utf8))
    #expect(try bytes.take(2) == [1, 1])
    #expect(try bytes.u32() == 0)
    try viewer.start(&bytes)
    #expect(bytes.isAtEnd)
    viewer.format = format
    try say(format.message)
    try say(Self.encodings(encodings))
  }

  static func encodings(_ list: [Int32]) -> [UInt8] {
    var out: [UInt8] = [2, 0]
    out.put16(list.count)
    for number in list { out.put(UInt32(bitPattern: number)) }
    return out
  }

  @discardableResult
  func say(_ bytes: [UInt8]) throws -> [RFBInput] { try session.receive(bytes.span) }

  func request(_ area: Area? = nil, incremental: Bool = true) throws {
    let area = area ?? Area(width: viewer.width, height: viewer.height)
    var out: [UInt8] = [3, incremental ? 1 : 0]
    for value in [area.x, area.y, area.width, area.height] { out.put16(value) }
    try say(out)
  }

  /// All that the session has to send.
  func taken() -> [UInt8] {
    let bytes = Array(session.outgoing[session.sentCount...])
    session.sent(bytes.count)
    return bytes
  }

  /// Lets the session send all it has, and looks at it.
  func look() throws {
    var all: [UInt8] = taken()
    while session.hasWork {
      try session.produce()
      all += taken()
    }
    var bytes = Bytes(all)
    while !bytes.isAtEnd { try viewer.message(&bytes) }
  }

  /// Where the viewer sees another colour than the picture has, in its format.
  var wrong: Int {
    zip(viewer.pixels, picture.pixels).count { $0.0 != viewer.format.seen($0.1) }
      + abs(viewer.pixels.count - picture.pixels.count)
  }
}

/// A random number generator whose numbers are the same each time.
struct Seeded: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return state
  }
}

func noise(_ x: Int, _ y: Int) -> UInt32 {
  var random = Seeded(state: UInt64(x * 70_001 + y + 1))
  _ = random.next()
  return UInt32(truncatingIfNeeded: random.next() >> 20)
}

/// How far two colours are apart in the channel in which they differ most.
func distance(_ a: UInt32, _ b: UInt32) -> Int {
  var most = 0
  for shift: UInt32 in [0, 8, 16] {
    most = max(most, abs(Int(a >> shift & 255) - Int(b >> shift & 255)))
  }
  return most
}

/// A picture with many colours, and far from noise.
func photo(_ x: Int, _ y: Int) -> UInt32 {
  let red = 128 + (x * x / 90 + y) % 90
  let green = 60 + (x + y * y / 70) % 120
  let blue = (x * 3 + y) & 127
  return UInt32(red << 16 | green << 8 | blue)
}

struct EncodingTests {
  static let pictures: [(String, @Sendable (Int, Int) -> UInt32)] = [
    ("one colour", { _, _ in 0x123456 }),
    ("two colours", { x, y in (x / 3 + y / 5) % 2 == 0 ? 0xffffff : 0x204080 }),
    ("four colours", { x, y in [0, 0xff0000, 0xff00, 0xff][(x + y * 3) % 4] }),
    ("sixteen colours", { x, y in UInt32((x ^ y) & 15) * 0x0f0f0f }),
    ("a hundred colours in runs", { x, y in UInt32((x / 9 + y) % 100) * 0x010203 }),
    ("two hundred colours", { x, y in UInt32((x * 7 + y * 3) % 200) * 0x010101 }),
    ("long runs", { x, y in UInt32(y * 40_503) }),
    (
      "a gradient", { x, y in UInt32(x & 255) << 16 | UInt32(y & 255) << 8 | UInt32((x + y) & 255) }
    ),
    ("noise", { x, y in noise(x, y) }),
  ]
  static let formats: [(String, Viewer.Format)] = [
    ("32 bits", .init()),
    ("32 bits, big-endian", .init(isBig: true)),
    ("RGBX", .init(channels: [(255, 0), (255, 8), (255, 16)])),
    ("32 bits, colours in the upper bytes", .init(channels: [(255, 24), (255, 16), (255, 8)])),
    ("upper bytes, big-endian", .init(isBig: true, channels: [(255, 24), (255, 16), (255, 8)])),
    ("32 bits, depth 32", .init(depth: 32)),
    ("RGB 565", .init(bits: 16, depth: 16, channels: [(31, 11), (63, 5), (31, 0)])),
    (
      "RGB 555, big-endian",
      .init(bits: 16, depth: 15, isBig: true, channels: [(31, 10), (31, 5), (31, 0)])
    ),
    ("BGR 233", .init(bits: 8, depth: 8, channels: [(7, 0), (7, 3), (3, 6)])),
    ("10 bits a colour", .init(depth: 30, channels: [(1023, 20), (1023, 10), (1023, 0)])),
  ]

  @Test(arguments: [0, 7, 16] as [Int32])
  func aViewerSeesThePicture(encoding: Int32) throws {
    for (kind, colour) in Self.pictures {
      for (layout, format) in Self.formats {
        let watching = try Watching(TestPicture(71, 67, colour), [encoding], format)
        try watching.request(incremental: false)
        try watching.look()
        #expect(watching.viewer.encodings.allSatisfy { $0 == encoding })
        #expect(watching.wrong == 0, "\(kind), \(layout), encoding \(encoding)")
      }
    }
  }

  @Test(arguments: [0, 7, 16] as [Int32])
  func aLargePictureComesInPieces(encoding: Int32) throws {
    let picture = TestPicture(2100, 70) { x, y in noise(x, y) }
    let watching = try Watching(picture, [encoding])
    try watching.request(incremental: false)
    var most = 0
    var all: [UInt8] = []
    while watching.session.hasWork {
      try watching.session.produce()
      most = max(most, watching.session.outgoing.count)
      all += watching.taken()
    }
    var bytes = Bytes(all)
    while !bytes.isAtEnd { try watching.viewer.message(&bytes) }
    #expect(watching.wrong == 0)
    #expect(most < RFBSession.pieceLimit * 4 + 1 << 16)
  }

  @Test(arguments: [0, 7, 16] as [Int32])
  func manyUpdatesOfOneStreamStayExact(encoding: Int32) throws {
    var random = Seeded(state: 99)
    let picture = TestPicture(200, 130) { x, y in UInt32(x * y) }
    let watching = try Watching(picture, [encoding])
    try watching.request(incremental: false)
    try watching.look()
    for round in 0..<60 {
      let area = Area(
        x: .random(in: 0..<200, using: &random), y: .random(in: 0..<130, using: &random),
        width: .random(in: 1...90, using: &random), height: .random(in: 1...90, using: &random)
      ).intersection(Area(width: 200, height: 130))
      let kind = Int.random(in: 0..<Self.pictures.count, using: &random)
      for y in area.y..<area.bottom {
        for x in area.x..<area.right {
          picture.pixels[y * 200 + x] = Self.pictures[kind].1(x, y + round) & 0xff_ffff
        }
      }
      watching.session.damaged(area)
      try watching.request()
      try watching.look()
      #expect(watching.wrong == 0, "round \(round), \(area)")
      #expect(watching.viewer.areas.allSatisfy { area.contains($0) })
    }
  }

  @Test func aPhotoIsSentAsJPEGAndThenExactly() throws {
    let picture = TestPicture(300, 200, photo)
    let watching = try Watching(picture, [7, -24])
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.viewer.photos > 0)
    #expect(watching.wrong > 0)
    let far = zip(watching.viewer.pixels, picture.pixels).count { distance($0, $1) > 60 }
    #expect(far * 50 < picture.pixels.count)
    watching.session.refine()
    try watching.request()
    try watching.look()
    #expect(watching.wrong == 0)
    // Once is enough.
    watching.session.refine()
    try watching.request()
    #expect(!watching.session.hasWork)
  }

  @Test func withoutAQualityNothingIsLost() throws {
    let picture = TestPicture(300, 200, Self.pictures[8].1)
    let watching = try Watching(picture, [7])
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.viewer.photos == 0)
    #expect(watching.wrong == 0)
  }

  @Test func theFirstKnownEncodingCounts() throws {
    let watching = try Watching(TestPicture(40, 40), [5, 1, 16, 7, 0])
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.viewer.encodings == [16])
  }

  @Test func aTilesFactsAreThoseOfAPlainLook() {
    var random = Seeded(state: 7)
    var palette = Palette()
    for round in 0..<200 {
      let colours = (0..<(1 + round % 4)).map { UInt32($0 * 0x10203) }
      let tile = (0..<Int.random(in: 1...300, using: &random)).map { _ in
        colours.randomElement(using: &random) ?? 0
      }
      let facts = palette.collect(tile, limit: 3)
      let begins = tile.indices.filter { $0 == 0 || tile[$0] != tile[$0 - 1] }
      let ends = begins.dropFirst() + [tile.count]
      #expect(facts.runs == begins.count)
      #expect(facts.singles == zip(begins, ends).count { $1 - $0 == 1 })
      #expect(facts.isComplete == (Set(tile).count <= 3))
      guard facts.isComplete else { continue }
      #expect(palette.count == Set(tile).count)
      #expect(tile.indices.allSatisfy { palette[Int(palette.number(at: $0))] == tile[$0] })
    }
  }
}
