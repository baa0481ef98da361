import PinholeInput

/// The configuration space of an input device: `struct virtio_input_config` (virtio 1.3, 5.8.4).
///
/// The driver writes what it asks for into the first two bytes and reads the answer behind them.
struct InputConfiguration {
  /// Bytes of `struct virtio_input_config`.
  static let size = 136
  private static let unionOffset = 8
  private static let unionSize = 128

  private let profile: InputProfile
  private var select: UInt8 = 0
  private var subselect: UInt8 = 0

  init(_ profile: InputProfile) { self.profile = profile }

  /// Reads a part. Front-ends differ in how much they ask for at once; behind the end are zeros.
  ///
  /// - Returns: exactly `count` bytes.
  func read(offset: UInt32, count: UInt32) -> [UInt8] {
    let answer = answer.prefix(Self.unionSize)
    var space = [select, subselect, UInt8(answer.count)]
    space += [UInt8](repeating: 0, count: Self.unionOffset - space.count) + answer
    return (0..<Int(count)).map { index in
      let place = Int(offset) + index
      return place < space.count ? space[place] : 0
    }
  }

  /// Takes what the driver wrote. QEMU sends the whole space, others only what was written.
  mutating func write(offset: UInt32, bytes: [UInt8]) {
    for (index, byte) in bytes.prefix(2).enumerated() {
      switch Int(offset) + index {
      case 0: select = byte
      case 1: subselect = byte
      default: break
      }
    }
  }

  /// What was asked for; empty where there is nothing to tell.
  private var answer: [UInt8] {
    switch (select, subselect) {
    case (0x01, 0): Array(profile.name.utf8)  // VIRTIO_INPUT_CFG_ID_NAME
    case (0x03, 0): Self.littleEndian(profile.identity)  // VIRTIO_INPUT_CFG_ID_DEVIDS
    case (0x11, UInt8(EventType.repetition)) where profile.kind == .keyboard:
      // The guest repeats keys; which delays it may have is its own business.
      [0]
    case (0x11, let type): Self.bitmap(profile.codes(of: UInt16(type)))  // …_EV_BITS
    case (0x12, let axis) where profile.codes(of: EventType.absolute).contains(UInt16(axis)):
      // VIRTIO_INPUT_CFG_ABS_INFO: min, max, fuzz, flat, res
      Self.littleEndian([0, UInt32(InputProfile.axisMaximum), 0, 0, 0])
    default: []
    }
  }

  private static func bitmap(_ codes: [UInt16]) -> [UInt8] {
    guard let last = codes.max() else { return [] }
    var bits = [UInt8](repeating: 0, count: Int(last) / 8 + 1)
    for code in codes { bits[Int(code) / 8] |= 1 << UInt8(code % 8) }
    return bits
  }

  private static func littleEndian<Word: FixedWidthInteger>(_ words: [Word]) -> [UInt8] {
    words.flatMap { word in withUnsafeBytes(of: word.littleEndian) { Array($0) } }
  }
}
