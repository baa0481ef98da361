/// A 128-byte EDID 1.4 with one detailed timing, for displays that are not there.
package enum FakeEDID {
  /// Makes the block for a size in pixels at 60 Hz.
  package static func bytes(width: Int, height: Int) -> [UInt8] {
    var b = [UInt8](repeating: 0, count: 128)
    b.replaceSubrange(0..<8, with: [0, 255, 255, 255, 255, 255, 255, 0])
    b.replaceSubrange(8..<12, with: [0x18, 0x2b, 1, 0])  // "FAK", product 1
    b.replaceSubrange(16..<22, with: [1, 36, 1, 4, 0xa5, 50])  // week, year, EDID 1.4, digital
    b[22] = 30
    b[24] = 0x06
    for i in 38..<54 { b[i] = 1 }  // no standard timings
    let blank = (x: 160, y: 30)
    let clock = (width + blank.x) * (height + blank.y) * 60 / 10_000
    b.replaceSubrange(54..<56, with: [UInt8(clock & 255), UInt8(clock >> 8 & 255)])
    func split(_ active: Int, _ blank: Int, at offset: Int) {
      b[offset] = UInt8(active & 255)
      b[offset + 1] = UInt8(blank & 255)
      b[offset + 2] = UInt8((active >> 8) << 4 & 0xf0 | blank >> 8 & 15)
    }
    split(width, blank.x, at: 56)
    split(height, blank.y, at: 59)
    b.replaceSubrange(62..<66, with: [48, 32, 0x35, 0])
    b[71] = 0x18
    for block in [72, 90, 108] { b[block + 3] = 0x10 }
    b[127] = UInt8(truncatingIfNeeded: 256 - b.reduce(0) { $0 + Int($1) } % 256)
    return b
  }
}
