import Pixels
import Testing
import VirtioGPU

@Suite("Pixel conversion")
struct PixelConversionTests {
  /// Where blue, green and red are in the four bytes of a pixel.
  static let places: [(PixelFormat, [Int])] = [
    (.b8g8r8a8, [0, 1, 2]), (.b8g8r8x8, [0, 1, 2]), (.a8r8g8b8, [3, 2, 1]),
    (.x8r8g8b8, [3, 2, 1]), (.r8g8b8a8, [2, 1, 0]), (.x8b8g8r8, [1, 2, 3]),
    (.a8b8g8r8, [1, 2, 3]), (.r8g8b8x8, [2, 1, 0]),
  ]

  @Test("Every virtio-gpu format becomes blue, green, red", arguments: places)
  func everyFormat(format: PixelFormat, places: [Int]) throws {
    let conversion = try #require(PixelConversion(from: format.fourcc))
    for count in [0, 1, 2, 7, 8, 9, 16, 33] {
      for shift in 0..<4 {
        let original = (0..<count * 4 + 8).map { UInt8(truncatingIfNeeded: $0 &* 37 &+ 11) }
        var bytes = original
        bytes.withUnsafeMutableBytes { raw in
          guard let base = raw.baseAddress else { return }
          conversion.apply(to: base + shift, count: count)
        }
        for pixel in 0..<count {
          let at = shift + pixel * 4
          let expected = places.map { original[at + $0] }
          #expect(Array(bytes[at..<at + 3]) == expected)
        }
        #expect(bytes[..<shift] == original[..<shift])
        #expect(bytes[(shift + count * 4)...] == original[(shift + count * 4)...])
      }
    }
  }

  @Test("All formats are covered")
  func allFormats() {
    #expect(Set(Self.places.map(\.0)) == Set(PixelFormat.allCases))
  }

  @Test("A format that virtio-gpu does not have is refused")
  func unknownFormat() {
    #expect(PixelConversion(from: FourCC("N", "V", "1", "2")) == nil)
  }
}
