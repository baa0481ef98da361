import Buffers
import Pixels
import Testing
import VirtioGPU

@Suite("Pixel formats")
struct FormatTests {
  /// The names of drm_fourcc.h, and its words with 0x11 for blue, 0x22 green, 0x33 red, 0x44 the
  /// fourth channel, as `[31:0]` there says.
  static let words: [(PixelFormat, UInt32, String, UInt32)] = [
    (.b8g8r8a8, 1, "AR24", 0x4433_2211), (.b8g8r8x8, 2, "XR24", 0x4433_2211),
    (.a8r8g8b8, 3, "BA24", 0x1122_3344), (.x8r8g8b8, 4, "BX24", 0x1122_3344),
    (.r8g8b8a8, 67, "AB24", 0x4411_2233), (.x8b8g8r8, 68, "RX24", 0x3322_1144),
    (.a8b8g8r8, 121, "RA24", 0x3322_1144), (.r8g8b8x8, 134, "XB24", 0x4411_2233),
  ]

  @Test("Numbers and names are those of the headers", arguments: words)
  func names(format: PixelFormat, number: UInt32, name: String, word: UInt32) {
    #expect(format.rawValue == number)
    #expect(format.fourcc.description == name)
    #expect(PixelFormat(fourcc: format.fourcc) == format)
  }

  @Test("virtio names bytes in memory, DRM a little-endian word", arguments: words)
  func bytes(format: PixelFormat, number: UInt32, name: String, word: UInt32) {
    let channel: [Character: UInt8] = ["b": 0x11, "g": 0x22, "r": 0x33, "a": 0x44, "x": 0x44]
    let named = "\(format)".compactMap { channel[$0] }
    let memory = withUnsafeBytes(of: word.littleEndian) { Array($0) }
    #expect(memory == named)
  }

  @Test("All formats are covered, and nothing else is one")
  func all() {
    #expect(Set(Self.words.map(\.0)) == Set(PixelFormat.allCases))
    for number: UInt32 in [0, 5, 66, 69, 120, 122, 133, 135, .max] {
      #expect(PixelFormat(rawValue: number) == nil)
    }
    #expect(PixelFormat(fourcc: FourCC("N", "V", "1", "2")) == nil)
  }
}
