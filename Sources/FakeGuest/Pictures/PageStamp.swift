/// What is written in a page so that its place and time can be told from its bytes.
package enum PageStamp {
  /// Fills 4 KiB with words that depend on a tag and on the page's number.
  ///
  /// - Parameters:
  ///   - page: 4 KiB of memory.
  ///   - tag: whose writing this is, for example a frame or a round.
  ///   - number: the page's place in its file, in pages.
  package static func write(_ page: UnsafeMutableRawPointer, tag: UInt64, number: UInt64) {
    var word = first(tag: tag, number: number)
    for offset in stride(from: 0, to: 4096, by: 8) {
      page.storeBytes(of: word, toByteOffset: offset, as: UInt64.self)
      word &+= 0x9e37_79b9_7f4a_7c15
    }
  }

  /// The bytes that ``write(_:tag:number:)`` leaves.
  package static func bytes(tag: UInt64, number: UInt64) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 4096)
    bytes.withUnsafeMutableBytes { p in
      if let base = p.baseAddress { write(base, tag: tag, number: number) }
    }
    return bytes
  }

  private static func first(tag: UInt64, number: UInt64) -> UInt64 {
    var random = SeededRandom(seed: tag &* 0x1_0000_0001 ^ number)
    return random.next()
  }
}
