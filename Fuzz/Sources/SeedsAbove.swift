import Buffers
import Pixels
import QEMUDisplay
import Scene
import VirtioGPU

/// QEMU's answers.
enum DisplaySeeds {
  private typealias Step = DisplayTarget.Step

  static var all: [String: [UInt8]] {
    [
      "boot": [0] + features + ask + answer + picture + read + [Step.leave.rawValue, 1],
      "slow": [1] + features + picture + picture + picture + read + picture + read + read,
      "cursor": [0] + features + cursor + cursor + read,
      "again": [0] + features + picture + [Step.attach.rawValue] + features + read
        + [Step.detach.rawValue] + picture,
      "silent": [0] + ask + picture + [Step.leave.rawValue, 0] + ask,
      "pieces": [0] + ask + pieces,
    ]
  }

  private static let features = [Step.features.rawValue, 3, Step.turn.rawValue, 1]
  private static let ask = [Step.askInfo.rawValue, Step.askEDID.rawValue, 0, Step.turn.rawValue, 1]
  private static let read = [Step.read.rawValue, 10, Step.turn.rawValue, 1]
  private static let picture = [
    Step.size.rawValue, 0, 0x88, Step.present.rawValue, 0, 0, 64, 64, 0, Step.present.rawValue, 8,
    8, 16, 16, 0,
  ].map { UInt8($0) }
  private static let cursor =
    [Step.cursor.rawValue, 0, 126, 5, 6, 1, Step.cursor.rawValue, 0, 1]
    + [9, 9, 0]

  private static var replies: [UInt8] {
    var encoder = QEMUWire.Encoder()
    let mode = DisplayMode(rect: Rect(x: 0, y: 0, width: 1024, height: 768), isEnabled: true)
    encoder.displayInfoReply(DisplayInfo(modes: [mode]))
    encoder.edidReply(EDID.make(width: 1024, height: 768))
    return encoder.bytes
  }
  private static func raw(_ bytes: [UInt8]) -> [UInt8] {
    var out = Script()
    out.u8(Step.raw.rawValue)
    out.put(UInt16(bytes.count))
    out.raw(bytes)
    return out.bytes + [Step.turn.rawValue, 1]
  }
  private static var answer: [UInt8] { raw(replies) }
  private static var pieces: [UInt8] {
    features + raw(Array(replies.prefix(7))) + raw(Array(replies[7..<500]))
      + raw(Array(replies[500...]))
  }
}

/// Consumers of frames that behave, and one that is slow.
enum FramesSeeds {
  private typealias Step = FramesTarget.Step

  static var all: [String: [UInt8]] {
    [
      "look": size + hello + present + read + done + present + read + done + [Step.leave.rawValue],
      "slow": size + hello + present + present + present + present + read + done + done + read,
      "revoke": size + hello + present + read + revoke + read + closed + present + read + done,
      "next": size + hello + present + read + [Step.revoke.rawValue, 0x81, 2] + present + read,
      "two": size + hello + [Step.connect.rawValue] + say(1) + present + read + read1 + done,
      "cursor": size + hello + [Step.cursor.rawValue, 15, 0, 4, 1] + read,
      "copies": size + [Step.connect.rawValue, Step.hello.rawValue, 0, 1, 0x11, 8, 0, 1, 65]
        + turn + present + read + done,
      "late": hello + read + size + present + read + [Step.output.rawValue, 0, 0] + read,
      "timeline": timelines + raw([4, 24, 0, 0, 0, 1], gifts: [1, 1]) + read,
      "point": timelines + present + read + raw([2, 32, 0, 2, 1, 0, 1, 0]) + read,
      "no-timeline": timelines + raw([5, 16, 0, 0]) + read,
    ]
  }

  /// A consumer that may bring timelines.
  private static var timelines: [UInt8] {
    size + [Step.connect.rawValue, Step.hello.rawValue, 0, 0, 0x11, 2, 0, 1, 65] + turn
  }
  /// A packet of small 32-bit numbers.
  private static func raw(_ words: [UInt8], gifts: [UInt8] = []) -> [UInt8] {
    [Step.raw.rawValue, 0, UInt8(gifts.count)] + gifts + [UInt8(words.count * 4), 0]
      + words.flatMap { [$0, 0, 0, 0] } + turn
  }

  private static let turn = [Step.turn.rawValue, 3]
  private static let size = [Step.output.rawValue, 0, 0x24]
  private static func say(_ consumer: UInt8) -> [UInt8] {
    [Step.hello.rawValue, consumer, 0, 0x11, 0, 0, 4, 102, 117, 122, 122] + turn
  }
  private static var hello: [UInt8] { [Step.connect.rawValue] + say(0) }
  private static let present: [UInt8] = [Step.present.rawValue, 0, 1, 0, 0, 32, 32]
  private static let read = [Step.read.rawValue, 0, 16]
  private static let read1 = [Step.read.rawValue, 1, 16]
  private static let done = [Step.done.rawValue, 0, 0] + turn
  private static let closed = [Step.closed.rawValue, 0, 0] + turn
  private static let revoke: [UInt8] = [Step.revoke.rawValue, 1, 1]
}

/// Producers that behave.
enum ConsumerSeeds {
  private typealias Step = ConsumerTarget.Step

  static var all: [String: [UInt8]] {
    [
      "look": [0] + hello + output + add(1) + frame(1) + frame(2),
      "lazy": [1] + hello + output + add(1) + frame(1) + remove(1) + add(2) + frame(2, of: 2),
      "remove": [0] + hello + output + add(1) + frame(1) + remove(1) + add(1) + frame(2),
      "cursor": [0] + hello + output + cursor + [Step.leave.rawValue, 1],
    ]
  }

  private static let hello: [UInt8] = [Step.hello.rawValue, 1, 2, 16, 4, 102, 117, 122, 122]
  private static let output: [UInt8] = [Step.output.rawValue, 0, 1, 32, 16]
  /// 32 by 16 pixels in one page, in a sealed memfd.
  private static func add(_ id: UInt8) -> [UInt8] {
    [Step.bufferAdd.rawValue, id, 1, 32, 16, 1, 2, 1, 1, 1, 1, 32, 0, 1, 11]
  }
  private static func frame(_ serial: UInt8, of id: UInt8 = 1) -> [UInt8] {
    [Step.frame.rawValue, 0, 1, serial, id, 1, 0, 0, 32, 16, 1, 0, 0, 32, 16]
      + [0, 0, 0, 0, 0, 0]
  }
  private static func remove(_ id: UInt8) -> [UInt8] {
    [Step.bufferRemove.rawValue, id, 1, 1]
  }
  private static let cursor: [UInt8] = [
    Step.cursor.rawValue, 0, 3, 5, 1, 16, 16, 1, 16, 1, 1, 1, 11,
  ]
}
