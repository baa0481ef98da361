import Testing

@testable import RFB

struct SessionTests {
  // MARK: Handshake

  @Test(arguments: [
    ("RFB 003.003\n", RFBVersion.v3_3), ("RFB 003.005\n", .v3_3), ("RFB 003.007\n", .v3_7),
    ("RFB 003.008\n", .v3_8), ("RFB 003.889\n", .v3_8), ("RFB 004.001\n", .v3_8),
  ])
  func eachVersionGetsItsHandshake(text: String, version: RFBVersion) throws {
    let session = RFBSession(name: "desk", picture: TestPicture(7, 5))
    func said(_ bytes: [UInt8]) throws -> [UInt8] {
      _ = try session.receive(bytes.span)
      let out = Array(session.outgoing[session.sentCount...])
      session.sent(out.count)
      return out
    }
    #expect(try said([]) == [UInt8]("RFB 003.008\n".utf8))
    let offer = try said([UInt8](text.utf8))
    switch version {
    case .v3_3: #expect(offer == [0, 0, 0, 1])
    case .v3_7:
      #expect(offer == [1, 1])
      #expect(try said([1]) == [])
    case .v3_8:
      #expect(offer == [1, 1])
      #expect(try said([1]) == [0, 0, 0, 0])
    }
    var start = Bytes(try said([0]))
    let viewer = Viewer()
    try viewer.start(&start)
    #expect((viewer.width, viewer.height) == (7, 5))
    #expect(viewer.name == "desk")
    #expect(start.isAtEnd)
  }

  @Test func bytesMayComeOneByOne() throws {
    let session = RFBSession(name: "", picture: TestPicture(3, 3))
    var inputs: [RFBInput] = []
    let all: [UInt8] =
      [UInt8]("RFB 003.008\n".utf8) + [1, 1] + [4, 1, 0, 0, 0, 0, 0, 0x61]
      + [6, 0, 0, 0, 0, 0, 0, 3, 9, 9, 9] + [5, 1, 0, 2, 0, 1]
      + [255, 0, 0, 1, 0, 0, 0, 0x61, 0, 0, 0, 30]
    for byte in all { inputs += try session.receive([byte].span) }
    #expect(
      inputs == [
        .key(scanCode: nil, keysym: 0x61, isDown: true),
        .pointer(x: 2, y: 1, width: 3, height: 3, buttons: 1),
        .key(scanCode: 30, keysym: 0x61, isDown: true),
      ])
  }

  @Test func anotherSecurityIsRefusedWithWords() throws {
    let session = RFBSession(name: "", picture: TestPicture(3, 3))
    _ = try session.receive(([UInt8]("RFB 003.008\n".utf8) + [2]).span)
    var bytes = Bytes(Array(session.outgoing))
    _ = try bytes.take(14)
    #expect(try bytes.u32() == 1)
    #expect(String(decoding: try bytes.take(try bytes.u32()), as: UTF8.self).contains("type 2"))
    #expect(session.isRefused)
    #expect(!session.isGreeted)
  }

  @Test(arguments: [
    "HTTP/1.1 GET", "RFB 003.00x\n", "RFB 003.002\n", "RFB 003.008 ", "RFB 002.009\n",
  ])
  func whatIsNoVersionEndsIt(text: String) {
    let session = RFBSession(name: "", picture: TestPicture(3, 3))
    #expect(throws: RFBError.self) { try session.receive([UInt8](text.utf8).span) }
  }

  @Test func whatWasNotOfferedEndsIt() throws {
    for kind in UInt8.min...UInt8.max where ![0, 2, 3, 4, 5, 6, 251, 255].contains(kind) {
      let watching = try Watching(TestPicture(3, 3), [0])
      #expect(throws: RFBError.self) { try watching.say([kind] + [UInt8](repeating: 0, count: 64)) }
    }
    let watching = try Watching(TestPicture(3, 3), [0])
    #expect(throws: RFBError.self) {
      try watching.say([255, 1] + [UInt8](repeating: 0, count: 64))
    }
  }

  @Test(arguments: [
    [24, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0],
    [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 32, 8, 0],
    [16, 16, 0, 1, 0, 255, 0, 63, 0, 31, 11, 5, 0], [32, 24, 0, 1, 0, 0, 0, 255, 0, 255, 16, 8, 0],
    [32, 24, 0, 0, 0, 255, 0, 255, 0, 255, 16, 8, 0],
    [32, 24, 0, 1, 255, 255, 0, 255, 0, 255, 17, 8, 0],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
  ])
  func impossiblePixelsEndIt(format: [UInt8]) throws {
    let watching = try Watching(TestPicture(3, 3), [0])
    #expect(throws: RFBError.self) { try watching.say([0, 0, 0, 0] + format + [0, 0, 0]) }
  }

  // MARK: Bounds

  @Test func aClipboardTakesNoMemory() throws {
    var parser = ClientParser()
    for chunk in ["RFB 003.008\n", "\u{1}", "\u{1}"] { parser.feed([UInt8](chunk.utf8).span) }
    while try parser.message() != nil {}
    parser.feed([6, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff].span)
    #expect(try parser.message() == nil)
    let chunk = [UInt8](repeating: 7, count: 4096)
    for _ in 0..<2000 {
      parser.feed(chunk.span)
      #expect(try parser.message() == nil)
      #expect(parser.pending == 0)
    }
  }

  @Test func tooManyEncodingsArePassedOver() throws {
    let watching = try Watching(TestPicture(3, 3), [])
    var list = [Int32](repeating: 99, count: 65535)
    list[3] = 16
    try watching.say(Watching.encodings(list))
    #expect(try watching.say([4, 1, 0, 0, 0, 0, 0, 9]).count == 1)
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.viewer.encodings == [16])
  }

  @Test func whoAsksWithoutReadingGetsOnePiece() throws {
    let watching = try Watching(TestPicture(2000, 200, noise), [0])
    try watching.request(incremental: false)
    try watching.session.produce()
    let first = watching.session.outgoing.count
    for _ in 0..<5000 {
      try watching.request(incremental: false)
      try watching.say([251, 0, 0, 9, 0, 9, 1, 0] + [UInt8](repeating: 0, count: 16))
      try watching.session.produce()
    }
    #expect(watching.session.outgoing.count == first)
    #expect(first <= RFBSession.pieceLimit * 4 + 64)
    try watching.look()
    #expect(watching.wrong == 0)
  }

  @Test func damageOfAnyShapeStaysSmallAndIsShown() throws {
    var random = Seeded(state: 4711)
    let picture = TestPicture(300, 200)
    let watching = try Watching(picture, [16])
    try watching.request(incremental: false)
    try watching.look()
    for round in 0..<20 {
      for _ in 0..<300 {
        let area = Area(
          x: .random(in: 0..<300, using: &random), y: .random(in: 0..<200, using: &random),
          width: .random(in: 0..<40, using: &random), height: .random(in: 0..<40, using: &random))
        let inside = area.intersection(Area(width: 300, height: 200))
        for y in inside.y..<inside.bottom {
          for x in inside.x..<inside.right { picture.pixels[y * 300 + x] = UInt32(round * 999 + x) }
        }
        watching.session.damaged(area)
        #expect(watching.session.dirty.areas.count <= 64)
      }
      // Part by part, as viewers of a part would.
      for x in stride(from: 0, to: 300, by: 100) {
        try watching.request(Area(x: x, y: 0, width: 100, height: 200))
        try watching.look()
      }
      #expect(watching.wrong == 0)
      #expect(watching.session.dirty.isEmpty)
    }
  }

  @Test func nothingIsSentUnasked() throws {
    let watching = try Watching(TestPicture(30, 30), [0])
    watching.session.replaced()
    #expect(!watching.session.hasWork)
    #expect(watching.session.isBehind)
    try watching.request(Area(x: 0, y: 0, width: 10, height: 10))
    try watching.look()
    #expect(watching.viewer.areas == [Area(x: 0, y: 0, width: 10, height: 10)])
    #expect(!watching.session.isHungry)
    try watching.request(Area(x: 0, y: 0, width: 10, height: 10))
    #expect(watching.session.isHungry)
  }

  // MARK: Sizes

  @Test(arguments: [-223, -308] as [Int32])
  func aNewSizeIsToldAndThenShown(how: Int32) throws {
    let picture = TestPicture(64, 48, noise)
    let watching = try Watching(picture, [16, how])
    try watching.request(incremental: false)
    try watching.look()
    for (width, height) in [(200, 100), (20, 10), (64, 300)] {
      picture.width = width
      picture.height = height
      picture.draw(noise)
      watching.session.replaced()
      try watching.request()
      try watching.look()
      #expect(watching.viewer.encodings == [Int(how)])
      #expect((watching.viewer.width, watching.viewer.height) == (width, height))
      try watching.request(incremental: false)
      try watching.look()
      #expect(watching.wrong == 0)
    }
  }

  @Test func aSizeThatChangesInTheMiddleOfAnUpdateDoesNoHarm() throws {
    let picture = TestPicture(2100, 130, noise)
    let watching = try Watching(picture, [0, -308])
    try watching.request(incremental: false)
    try watching.session.produce()
    picture.width = 40
    picture.height = 30
    picture.draw(noise)
    watching.session.replaced()
    try watching.look()
    #expect(watching.viewer.width == 2100)
    try watching.request()
    try watching.look()
    try watching.request()
    try watching.look()
    #expect(watching.viewer.width == 40)
    #expect(watching.wrong == 0)
  }

  @Test func whoCannotFollowASizeSeesWhatFits() throws {
    let picture = TestPicture(50, 50, noise)
    let watching = try Watching(picture, [0])
    try watching.request(incremental: false)
    try watching.look()
    picture.width = 30
    picture.height = 70
    picture.draw(noise)
    watching.session.replaced()
    try watching.request()
    try watching.look()
    #expect((watching.viewer.width, watching.viewer.height) == (50, 50))
    for (x, y) in [(0, 0), (29, 49), (30, 0), (49, 49)] {
      let wanted = x < 30 ? picture.pixels[y * 30 + x] : 0
      #expect(watching.viewer.pixels[y * 50 + x] == wanted)
    }
  }

  @Test func aViewersWishForASizeIsDenied() throws {
    let watching = try Watching(TestPicture(30, 20), [0, -308])
    try watching.request(incremental: false)
    try watching.look()
    // The first answer to a full request tells that sizes can be told at all.
    #expect(watching.viewer.sizes.map(\.reason) == [0])
    try watching.say([251, 0, 0, 90, 0, 80, 1, 0] + [UInt8](repeating: 0, count: 16))
    try watching.look()
    #expect(watching.viewer.sizes.last?.reason == 1)
    #expect(watching.viewer.sizes.last?.status == 1)
    #expect(watching.viewer.width == 30)
  }

  // MARK: Cursors

  private static let arrow = CursorImage(
    width: 11, height: 3, hotX: 2, hotY: 1,
    pixels: (0..<33).map { $0 % 3 == 0 ? 0 : $0 % 3 == 1 ? 0xffaa_bbcc : 0x8040_2010 })

  @Test func aCursorComesWithAlpha() throws {
    let watching = try Watching(TestPicture(30, 20), [0, -239, -314])
    try watching.request(incremental: false)
    try watching.look()
    watching.session.show(cursor: Self.arrow, x: 5, y: 5)
    try watching.request()
    try watching.look()
    let cursor = try #require(watching.viewer.cursors.last)
    #expect((cursor.hotX, cursor.hotY, cursor.width, cursor.height) == (2, 1, 11, 3))
    #expect(cursor.pixels == Self.arrow?.pixels)
    // It moves without a word: the viewer's own pointer does.
    watching.session.show(cursor: Self.arrow, x: 9, y: 9)
    try watching.request()
    #expect(!watching.session.hasWork)
    watching.session.show(cursor: nil, x: 9, y: 9)
    try watching.look()
    #expect(watching.viewer.cursors.last?.width == 0)
  }

  @Test(arguments: EncodingTests.formats)
  func aCursorComesWithAMask(layout: String, format: Viewer.Format) throws {
    let watching = try Watching(TestPicture(30, 20), [0, -239], format)
    watching.session.show(cursor: Self.arrow, x: 5, y: 5)
    try watching.request(incremental: false)
    try watching.look()
    let wanted = try #require(Self.arrow).pixels.map { pixel -> UInt32 in
      guard pixel >> 24 >= 128 else { return 0 }
      // What was multiplied by alpha is as bright as before.
      let colour: UInt32 = pixel >> 24 == 255 ? pixel & 0xff_ffff : 0x7f3f1f
      return format.seen(colour) | 0xff00_0000
    }
    #expect(watching.viewer.cursors.last?.pixels == wanted)
  }

  @Test func whoKnowsNoCursorsSeesItInThePicture() throws {
    let picture = TestPicture(30, 20) { _, _ in 0x101010 }
    let watching = try Watching(picture, [0])
    watching.session.show(cursor: Self.arrow, x: 5, y: 5)
    try watching.request(incremental: false)
    try watching.look()
    func seen(_ x: Int, _ y: Int) -> UInt32 { watching.viewer.pixels[y * 30 + x] }
    #expect(seen(3, 4) == 0x101010)
    #expect(seen(4, 4) == 0xaabbcc)
    #expect(seen(5, 4) == 0x483018 || seen(5, 4) == 0x482818)
    // It leaves nothing behind, also at the edges.
    for place in [(29, 19), (0, 0), (-40, 3), (1000, 1000), (15, 10)] {
      watching.session.show(cursor: Self.arrow, x: place.0, y: place.1)
      try watching.request()
      try watching.look()
    }
    #expect(seen(4, 4) == 0x101010)
    #expect(seen(14, 9) == 0xaabbcc)
    watching.session.show(cursor: nil, x: 0, y: 0)
    try watching.request()
    try watching.look()
    #expect(watching.wrong == 0)
  }

  @Test func keysAreAnnouncedOnce() throws {
    let watching = try Watching(TestPicture(30, 20), [0, -258])
    try watching.request()
    try watching.look()
    #expect(watching.viewer.hasKeys)
    try watching.request()
    #expect(!watching.session.hasWork)
  }
}
