/// Guests that behave: Linux with 2D resources, with blobs, a compositor that flips.
enum GPUSeeds {
  private typealias Step = GPUTarget.Step
  private typealias Kind = GPUScript.Kind

  static var all: [String: [UInt8]] {
    [
      "fbcon": [0] + probe + image(1) + show(1) + update(1) + update(1) + drop(1),
      "flip": [0] + image(1) + image(2) + flips + drop(1) + drop(2),
      "flip-direct": [1] + image(1) + image(2) + flips + drop(1) + drop(2),
      "flip-copy": [2] + image(1) + image(2) + flips + drop(1) + drop(2),
      "no-consumer": [0x80] + image(1) + show(1) + update(1) + drop(1),
      "blob": [1] + blob(3) + showBlob(3) + flush(3, fence: true) + flush(3) + drop(3),
      "cursor": [0] + image(4) + transfer(4) + cursor(4) + move + cursor(0) + drop(4),
      "reset": [0] + image(1) + show(1) + update(1) + [Step.reset.rawValue] + image(1) + show(1),
      "pause": [0] + image(1) + show(1) + update(1) + [Step.stopAndGo.rawValue] + update(1),
      "detach": [1] + image(1) + show(1) + update(1) + detach(1) + attach(1, page: 90) + update(1),
      "unplug": [1] + image(1) + show(1) + [Step.memory.rawValue, 0] + update(1),
      "demand": [0] + image(1) + show(1) + update(1) + demand + update(1),
      "two-outputs": [0] + image(1) + show(1) + show(1, on: 1) + update(1) + hide(0) + hide(1),
      "held": [0] + image(1) + show(1) + update(1) + update(1) + update(1)
        + [Step.expire.rawValue, Step.release.rawValue, 1] + update(1),
    ]
  }

  private static func command(
    _ kind: Kind, fence: Bool = false, cursor: Bool = false, _ rest: [UInt8]
  ) -> [UInt8] {
    let high: UInt8 = cursor ? 0xf0 : fence ? 0x80 : 0
    return [Step.command.rawValue, kind.rawValue | high] + rest
  }

  private static var probe: [UInt8] {
    command(.displayInfo, [0]) + command(.edid, [0, 0]) + command(.edid, [1, 0])
      + command(.capset, [0, 0])
  }
  /// 64 by 64 pixels are four pages.
  private static func image(_ id: UInt8) -> [UInt8] {
    command(.createImage, [id, 1, 64, 64]) + attach(id, page: 32 + id * 8)
  }
  private static func attach(_ id: UInt8, page: UInt8) -> [UInt8] {
    command(.attach, [id, 2, page, 1, page + 2, 3])
  }
  private static func detach(_ id: UInt8) -> [UInt8] { command(.detach, [id, 0]) }
  private static func show(_ id: UInt8, on output: UInt8 = 0) -> [UInt8] {
    command(.setScanout, [0, 0, 64, 64, output, id])
  }
  private static func hide(_ output: UInt8) -> [UInt8] { show(0, on: output) }
  private static func transfer(_ id: UInt8) -> [UInt8] {
    command(.transfer, [0, 0, 64, 64, 0, 0, id, 0])
  }
  private static func flush(_ id: UInt8, fence: Bool = false) -> [UInt8] {
    command(.flush, fence: fence, [0, 0, 64, 64, id, 0])
  }
  private static func update(_ id: UInt8) -> [UInt8] {
    transfer(id) + flush(id, fence: true) + [Step.release.rawValue, 1]
  }
  private static func drop(_ id: UInt8) -> [UInt8] { command(.unref, [id, 0]) }
  private static var flips: [UInt8] {
    (0..<4).flatMap { _ in show(1) + update(1) + show(2) + update(2) }
  }
  private static func blob(_ id: UInt8) -> [UInt8] {
    command(.createBlob, [id, 1, 1, 2, 64, 2, 70, 2, 4, 1])
  }
  private static func showBlob(_ id: UInt8) -> [UInt8] {
    command(
      .setScanoutBlob,
      [0, 0, 64, 64, 0, id, 64, 64, 1, 16, 0])
  }
  private static func cursor(_ id: UInt8) -> [UInt8] {
    command(.updateCursor, cursor: true, [0, 10, 10, id, 1, 1])
  }
  private static var move: [UInt8] { command(.moveCursor, cursor: true, [0, 20, 20, 0, 0, 0]) }
  private static var demand: [UInt8] {
    [Step.demand.rawValue, 0, Step.demand.rawValue, 1, Step.replay.rawValue]
  }
}
