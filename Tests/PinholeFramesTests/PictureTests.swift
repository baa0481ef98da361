import Glibc
import Linux
import Pictures
import Pixels
import Testing

@Suite struct PictureTests {
  /// Red 1, green 2, blue 3, alpha or x 4, in each format's memory order.
  @Test(
    arguments: [
      ("XR24", [3, 2, 1, 4], 255), ("AR24", [3, 2, 1, 4], 4), ("XB24", [1, 2, 3, 4], 255),
      ("AB24", [1, 2, 3, 4], 4), ("BX24", [4, 1, 2, 3], 255), ("BA24", [4, 1, 2, 3], 4),
      ("RX24", [4, 3, 2, 1], 255), ("RA24", [4, 3, 2, 1], 4),
    ] as [(String, [UInt8], UInt8)])
  func everyFormatIsRead(_ name: String, _ memory: [UInt8], _ alpha: UInt8) throws {
    let code = name.utf8.reversed().reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    let bytes: [UInt8] = [0, 0, 0, 0, 0] + memory
    let picture = try #require(
      bytes.withUnsafeBytes {
        Picture(
          bytes: $0,
          layout: PixelLayout(
            width: 1, height: 1, stride: 4, offset: 5, fourcc: FourCC(rawValue: code)))
      })
    #expect(picture.rgba == [1, 2, 3, alpha])
  }

  @Test func picturesThatDoNotFitAreRefused() {
    let bytes = [UInt8](repeating: 0, count: 64)
    func fits(_ width: UInt32, _ height: UInt32, _ stride: UInt32, _ offset: UInt64 = 0) -> Bool {
      bytes.withUnsafeBytes {
        Picture(
          bytes: $0,
          layout: PixelLayout(
            width: width, height: height, stride: stride, offset: offset, fourcc: .xrgb8888))
          != nil
      }
    }
    #expect(fits(4, 4, 16))
    #expect(!fits(4, 5, 16))
    #expect(!fits(4, 4, 17))
    #expect(!fits(5, 3, 16))
    #expect(!fits(4, 4, 16, 1))
    #expect(!fits(0, 4, 16))
    #expect(!fits(4, .max, 16))
    #expect(!fits(.max, 1, .max))
    #expect(!fits(4, 4, 16, .max))
    #expect(
      bytes.withUnsafeBytes {
        Picture(
          bytes: $0,
          layout: PixelLayout(width: 1, height: 1, stride: 4, fourcc: FourCC("N", "V", "1", "2")))
      } == nil)
  }

  @Test(arguments: [false, true]) func pngFilesComeBackAsTheyWere(_ alpha: Bool) throws {
    var picture = Picture(width: 33, height: 17)
    for y in 0..<17 {
      for x in 0..<33 {
        picture[x, y] = (UInt8(x * 7), UInt8(y * 15), UInt8(x ^ y), alpha ? UInt8(x + 100) : 255)
      }
    }
    let path = "/tmp/pinhole-picture-\(getpid())-\(Clock.now).png"
    defer { unlink(path) }
    try picture.writePNG(path, alpha: alpha)
    let back = try Picture(png: path)
    #expect(back == picture)
  }

  @Test func filesThatCannotBeAreNamed() {
    let picture = Picture(width: 1, height: 1)
    #expect(throws: PictureError.self) { try picture.writePNG("/nonexistent/x.png") }
    #expect(throws: PictureError.self) { _ = try Picture(png: "/nonexistent/x.png") }
  }

  @Test func picturesAreDrawnIntoOthers() {
    var sheet = Picture(width: 4, height: 4)
    sheet.draw(Picture(width: 2, height: 2, fill: (9, 8, 7, 255)), x: 3, y: -1)
    #expect(sheet[3, 0] == (9, 8, 7, 255))
    #expect(sheet[0, 1] == (0, 0, 0, 255), "the next row is not written to")
    #expect(sheet[3, 1] == (0, 0, 0, 255))
    #expect(sheet[2, 0] == (0, 0, 0, 255))
  }
}
