import Glibc
import Testing

@testable import Pixels

@Suite("Pixels in scattered memory")
struct PixelSourceTests {
  private static let layout = PixelLayout(
    width: 8, height: 6, stride: 40, offset: 12, fourcc: .xrgb8888)
  private static let bytes = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }
  private static let rect = Rect(x: 2, y: 1, width: 3, height: 4)

  /// The bytes of ``rect``, looked up one by one.
  private static let expected: [UInt8] = {
    var expected: [UInt8] = []
    for row in 1...4 {
      let start = 12 + row * 40 + 8
      expected += bytes[start..<start + 12]
    }
    return expected
  }()

  /// The same bytes in spans that begin at these places.
  private func withSource(
    cut: [Int], _ body: (PixelSource, UnsafeMutableRawPointer) throws -> Void
  ) throws {
    var bytes = Self.bytes
    try bytes.withUnsafeMutableBytes { bytes in
      let base = try #require(bytes.baseAddress)
      let ends = cut.dropFirst() + [bytes.count]
      let spans = zip(cut, ends).map { HostSpan(base: base + $0, count: $1 - $0) }
      try body(try #require(PixelSource(layout: Self.layout, spans: spans)), base)
    }
  }

  @Test("A rectangle is copied row by row, wherever its memory is cut", arguments: 1..<300)
  func copies(cut: Int) throws {
    for cuts in [[0], [0, cut]] {
      try withSource(cut: cuts) { source, _ in
        var got = [UInt8](repeating: 0, count: 4 * 16)
        let isWhole = got.withUnsafeMutableBytes { out in
          out.baseAddress.map { source.copy(Self.rect, to: $0, stride: 16) } ?? false
        }
        #expect(isWhole)
        var rows: [UInt8] = []
        var between: [UInt8] = []
        for row in stride(from: 0, to: 64, by: 16) {
          rows += got[row..<row + 12]
          between += got[row + 12..<row + 16]
        }
        #expect(rows == Self.expected)
        #expect(between == [UInt8](repeating: 0, count: 16), "nothing else is written")
      }
    }
  }

  @Test("It is one piece only where all of its rows lie in one span", arguments: 1..<300)
  func pieces(cut: Int) throws {
    let (first, last) = (12 + 40 + 8, 12 + 4 * 40 + 8 + 12 - 1)
    try withSource(cut: [0, cut]) { source, base in
      let isWhole = cut <= first || cut > last
      #expect(source.piece(of: Self.rect) == (isWhole ? base + first : nil))
    }
  }

  @Test("Memory that is too short for the picture is no source of it")
  func tooShort() throws {
    try withSource(cut: [0]) { source, base in
      func isSource(_ layout: PixelLayout, _ counts: [Int]) -> Bool {
        PixelSource(layout: layout, spans: counts.map { HostSpan(base: base, count: $0) }) != nil
      }
      #expect(source.layout.size == 252)
      #expect(isSource(Self.layout, [252]) && isSource(Self.layout, [100, 152]))
      #expect(!isSource(Self.layout, [251]) && !isSource(Self.layout, [100, 151]))
      #expect(!isSource(Self.layout, []) && !isSource(Self.layout, [-1, 300]))
      // Sums that 64 bits do not hold are not small ones.
      for offset in [UInt64.max, UInt64.max - 231] {
        let layout = PixelLayout(width: 8, height: 6, stride: 40, offset: offset, fourcc: .xrgb8888)
        #expect(layout.size == .max && layout.end == .max && !isSource(layout, [300]))
      }
    }
  }

  @Test("Nothing is copied of a rectangle that is not all in the picture")
  func outside() throws {
    try withSource(cut: [0, 100]) { source, _ in
      for rect in [
        Rect(x: 6, y: 1, width: 3, height: 1), Rect(x: 8, y: 0, width: 1, height: 1),
        Rect(x: 0, y: 5, width: 1, height: 2), Rect(x: 0, y: .max, width: 1, height: 1),
        Rect(x: .max, y: 0, width: 2, height: 1),
      ] {
        var got = [UInt8](repeating: 9, count: 64)
        let isCopied = got.withUnsafeMutableBytes { out in
          out.baseAddress.map { source.copy(rect, to: $0, stride: 16) } ?? true
        }
        #expect(!isCopied && got == [UInt8](repeating: 9, count: 64), "\(rect)")
        var pieces = 0
        let isVisited = source.forEachPiece(of: rect) { _, _ in pieces += 1 }
        #expect(!isVisited && pieces == 0, "\(rect)")
      }
    }
  }

  @Test("There is no piece of nothing, nor of what is not there")
  func nothing() throws {
    try withSource(cut: [0, 100]) { source, base in
      #expect(source.piece(of: Rect(x: 2, y: 1, width: 0, height: 4)) == nil)
      #expect(source.piece(of: Rect(x: 2, y: 1, width: 3, height: 0)) == nil)
      #expect(source.piece(of: Rect(x: 6, y: 1, width: 3, height: 4)) == nil)
      #expect(source.piece(of: Rect(x: .max, y: .max, width: .max, height: .max)) == nil)
      #expect(source.piece(offset: 299, count: 1) == base + 299)
      #expect(source.piece(offset: 100, count: 200) == base + 100)
      #expect(source.piece(offset: 100, count: 201) == nil)
      #expect(source.piece(offset: 300, count: 1) == nil)
      #expect(source.piece(offset: 0, count: 0) == nil)
      #expect(source.piece(offset: .max, count: .max) == nil)
      #expect(source.piece(offset: 8, count: UInt64(Int.max)) == nil)
    }
  }
}
