import Testing

@testable import RFB

/// Viewers that want what few want, or change their minds.
struct WishesTests {
  private static let arrow = CursorImage(
    width: 4, height: 4, hotX: 0, hotY: 0, pixels: [UInt32](repeating: 0xffaa_bbcc, count: 16))

  /// A viewer of 256 colours gets the map first, and by it each pixel is about as it was.
  @Test func aColourMapGoesWithItsPixels() throws {
    let picture = TestPicture(16, 16) { x, y in
      UInt32(x * 17) << 16 | UInt32(y * 17) << 8 | UInt32((x ^ y) * 17)
    }
    let watching = try Watching(picture, [0])
    try watching.say([0, 0, 0, 0, 8, 8, 0, 0] + [UInt8](repeating: 0, count: 12))
    try watching.request(incremental: false)
    var all: [UInt8] = []
    while watching.session.hasWork {
      try watching.session.produce()
      all += watching.taken()
    }
    var bytes = Bytes(all)
    // SetColourMapEntries: from 0, 256 of them.
    #expect(try bytes.take(6) == [1, 0, 0, 0, 1, 0])
    let map = try (0..<256).map { _ in
      let colour = (try bytes.u16(), try bytes.u16(), try bytes.u16())
      return UInt32(colour.0 >> 8) << 16 | UInt32(colour.1 >> 8) << 8 | UInt32(colour.2 >> 8)
    }
    #expect(try bytes.take(16) == [0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 16, 0, 0, 0, 0])
    let pixels = try bytes.take(256)
    #expect(bytes.isAtEnd)
    for (index, pixel) in pixels.enumerated() {
      let (seen, drawn) = (map[Int(pixel)], picture.pixels[index])
      // 3 bits of red and of green, 2 of blue.
      #expect(distance(seen & 0xff_ff00, drawn & 0xff_ff00) <= 19, "pixel \(index)")
      #expect(distance(seen & 0xff, drawn & 0xff) <= 43, "pixel \(index)")
    }
  }

  @Test func twoRequestsGetBothTheirParts() throws {
    let picture = TestPicture(40, 10, noise)
    let watching = try Watching(picture, [0])
    for x in [0, 30] {
      try watching.request(Area(x: x, y: 0, width: 10, height: 10), incremental: false)
    }
    try watching.look()
    for x in [0, 9, 30, 39] {
      #expect(watching.viewer.pixels[5 * 40 + x] == picture.pixels[5 * 40 + x], "column \(x)")
    }
  }

  /// The cursor is in the picture of whoever does not draw it himself, and in no other.
  @Test func whoDrawsTheCursorMayChange() throws {
    let watching = try Watching(TestPicture(30, 20) { _, _ in 0x101010 }, [0])
    watching.session.show(cursor: Self.arrow, x: 5, y: 5)
    try watching.request(incremental: false)
    try watching.look()
    func seen() -> UInt32 { watching.viewer.pixels[6 * 30 + 6] }
    #expect(seen() == 0xaabbcc)
    try watching.say(Watching.encodings([0, -239]))
    try watching.request()
    try watching.look()
    #expect(watching.viewer.cursors.count == 1)
    #expect(watching.wrong == 0, "the old one is wiped away")
    try watching.say(Watching.encodings([0]))
    try watching.request()
    try watching.look()
    #expect(seen() == 0xaabbcc)
  }

  /// ZRLE writes a run's length less one as bytes of 255 and a last one below.
  @Test(arguments: [1, 254, 255, 256, 257, 510, 511, 512, 2000])
  func runsOfAnyLengthAreRead(_ length: Int) throws {
    let picture = TestPicture(64, 64) { x, y in
      let place = y * 64 + x
      return place < length ? 0x112233 : place == length ? 0x445566 : 0x778899
    }
    let watching = try Watching(picture, [16])
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.wrong == 0)
  }

  /// What a larger picture was sent as is no concern of a smaller one.
  @Test func aSmallerPictureIsRefinedTo() throws {
    let picture = TestPicture(300, 200, photo)
    let watching = try Watching(picture, [7, -24, -308])
    try watching.request(incremental: false)
    try watching.look()
    #expect(watching.viewer.photos > 0)
    picture.width = 60
    picture.height = 50
    for round in 1...2 {
      picture.draw { photo($0 + 40 * round, $1) }
      watching.session.replaced()
      // The first answer tells the size alone.
      for _ in 0..<2 {
        try watching.request()
        try watching.look()
      }
      watching.session.refine()
      try watching.request()
      try watching.look()
      #expect(watching.wrong == 0, "round \(round)")
      #expect(watching.session.dirty.isEmpty, "all that there is was sent")
    }
  }
}
