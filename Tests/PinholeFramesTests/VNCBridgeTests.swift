import FrameProtocol
import Glibc
import Linux
import Logging
import PinholeInput
import Pixels
import Testing
import VNC

/// `pinhole vnc` between a producer and viewers.
@Suite struct VNCBridgeTests {
  private let loop: EventLoop
  private let producer: BridgeProducer
  private let path: String
  private static let size = Rect(width: 16, height: 8)

  init() throws {
    loop = try EventLoop()
    producer = try BridgeProducer()
    path = producer.path + ".vnc"
  }

  private func bridge(_ change: (inout VNCBridge.Options) -> Void = { _ in }) throws -> VNCBridge {
    var options = VNCBridge.Options(frames: producer.path, address: .path(path))
    change(&options)
    let bridge = try VNCBridge(
      options, on: loop, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    try producer.accept()
    try producer.output(16, 8)
    return bridge
  }

  private func turn() throws {
    for _ in 0..<5 { try loop.turn(timeout: 0) }
    try producer.listen()
  }

  private func viewer() throws -> RawViewer {
    let viewer = try RawViewer(path, loop)
    try viewer.start()
    return viewer
  }

  /// All that the viewer sees.
  private func look(_ viewer: RawViewer) throws -> [UInt32] {
    try viewer.request(all: true)
    try viewer.update()
    return viewer.pixels
  }

  private static func pattern(_ ground: UInt32, x left: UInt32 = 0, y top: UInt32 = 0) -> [UInt32] {
    var pixels: [UInt32] = []
    for y in top..<top + 8 { for x in left..<left + 16 { pixels.append(ground + y << 8 + x) } }
    return pixels
  }

  private static let black = [UInt32](repeating: 0, count: 128)

  /// The producer may use its memory for something else; what was there stays on screen, unless it
  /// is another guest's.
  @Test func aPictureThatWasTakenBackStays() throws {
    let bridge = try bridge()
    let memory = try producer.add(1, 16, 8) { 0x10_0000 + $1 << 8 + $0 }
    try producer.frame(1, crop: Self.size)
    try turn()
    let viewer = try viewer()
    #expect(try look(viewer) == Self.pattern(0x10_0000))
    try producer.remove(1, .discarded)
    try turn()
    #expect(producer.closed == [1])
    let other = [UInt8](repeating: 0x55, count: 512)
    #expect(pwrite(memory.raw, other, other.count, 0) == other.count)
    #expect(try look(viewer) == Self.pattern(0x10_0000))
    try producer.add(2, 16, 8) { 0x20_0000 + $1 << 8 + $0 }
    try producer.frame(2, crop: Self.size)
    try turn()
    #expect(try look(viewer) == Self.pattern(0x20_0000))
    try producer.remove(2, .reset)
    try turn()
    try viewer.request()
    try viewer.update()
    #expect(viewer.pixels == Self.black, "the guest is gone")
    withExtendedLifetime(bridge) {}
  }

  @Test func aProducerThatComesBackIsShown() throws {
    let bridge = try bridge()
    try producer.add(1, 16, 8) { 0x10_0000 + $1 << 8 + $0 }
    try producer.frame(1, crop: Self.size)
    try turn()
    let viewer = try viewer()
    #expect(try look(viewer) == Self.pattern(0x10_0000))
    producer.leave()
    try turn()
    #expect(try look(viewer) == Self.pattern(0x10_0000), "its last picture stays")
    let bound = Clock.now + 20_000_000_000
    while !producer.hasCaller {
      try #require(Clock.now < bound, "nobody asks for it again")
      try loop.turn(timeout: 100)
    }
    try producer.accept()
    try producer.output(16, 8)
    try producer.add(1, 16, 8) { 0x20_0000 + $1 << 8 + $0 }
    try producer.frame(1, crop: Self.size)
    try turn()
    #expect(try look(viewer) == Self.pattern(0x20_0000))
    withExtendedLifetime(bridge) {}
  }

  @Test func aPartOfABufferIsShownAndNoMoreThanWhatChanged() throws {
    let bridge = try bridge()
    try producer.add(1, 40, 20, stride: 192) { $1 << 8 + $0 }
    let crop = Rect(x: 7, y: 5, width: 16, height: 8)
    try producer.frame(1, crop: crop)
    try turn()
    let viewer = try viewer()
    #expect(try look(viewer) == Self.pattern(0, x: 7, y: 5))
    try producer.frame(1, crop: crop, damage: [Rect(x: 3, y: 2, width: 5, height: 1)])
    try turn()
    try viewer.request()
    try viewer.update()
    #expect(viewer.areas == [[3, 2, 5, 1]])
    withExtendedLifetime(bridge) {}
  }

  /// Nothing is copied that nobody will see: a frame is kept until somebody wants a newer one.
  @Test func framesAreAnsweredForThoseWhoLook() throws {
    let bridge = try bridge()
    try producer.add(1, 16, 8) { $1 << 8 + $0 }
    try producer.frame(1, crop: Self.size)
    try turn()
    #expect(producer.answered == [], "nobody looks")
    let viewer = try viewer()
    try turn()
    #expect(producer.answered == [1])
    try producer.frame(1, crop: Self.size)
    try turn()
    _ = try look(viewer)
    try turn()
    #expect(producer.answered == [1], "it has not asked for more")
    try viewer.request()
    try turn()
    #expect(producer.answered == [1, 2])
    try producer.frame(1, crop: Self.size)
    try turn()
    try viewer.update()
    try turn()
    #expect(producer.answered == [1, 2])
    withExtendedLifetime(bridge) {}
  }

  @Test func whoComesLaterSeesTheCursorToo() throws {
    let bridge = try bridge()
    var message = CursorMessage(output: 0, isVisible: true, x: 9, y: 5, hotX: 1, hotY: 2)
    var image = CursorMessage.Image(width: 2, height: 3)
    image.stride = 16
    image.size = 48
    message.image = image
    // Two pixels a row, and a gap.
    let words = (0..<12).map { $0 % 4 < 2 ? 0xff00_0000 | UInt32($0) : 0xeeee_eeee }
    try producer.cursor(message, words.withUnsafeBytes { Array($0) })
    try turn()
    let viewer = try viewer()
    _ = try look(viewer)
    #expect(viewer.cursor?.place == [1, 2, 2, 3])
    #expect(
      viewer.cursor?.pixels
        == [0xff00_0000, 0xff00_0001, 0xff00_0004, 0xff00_0005, 0xff00_0008, 0xff00_0009])
    try producer.cursor(CursorMessage(output: 0, isVisible: false, x: 9, y: 5))
    try turn()
    try viewer.request()
    try viewer.update()
    #expect(viewer.cursor?.place == [0, 0, 0, 0], "it is hidden")
    withExtendedLifetime(bridge) {}
  }

  /// A viewer says much at once: of places the last counts, and no click is lost.
  @Test func clicksBetweenMotionsArrive() throws {
    let input = producer.path + ".input"
    defer { unlink(input) }
    let listener = try UnixSocket.listen(input, kind: .seqpacket)
    let bridge = try bridge { $0.input = input }
    let viewer = try viewer()
    try viewer.say(
      RawViewer.pointer(1, 1, 0) + RawViewer.pointer(2, 2, 0) + RawViewer.pointer(3, 3, 1)
        + RawViewer.pointer(4, 4, 0) + [4, 1, 0, 0, 0, 0, 0, 0x61])
    try turn()
    let control = try UnixSocket.accept(listener.raw)
    let from = control.raw
    func place(_ at: Int32) -> [InputEvent] {
      [.absolute(Axis.x, at), .absolute(Axis.y, at)]
    }
    let wanted: [[InputEvent]] = [
      place(2), place(3) + [.key(PointerButton.left, isDown: true)],
      place(4) + [.key(PointerButton.left, isDown: false)], [.key(30, isDown: true)],
    ]
    var heard: [[InputEvent]] = []
    for _ in 0...wanted.count {
      var bytes = [UInt8](repeating: 0, count: 1024)
      var fds: [CInt] = []
      let count = try bytes.withUnsafeMutableBytes {
        try UnixSocket.receive(from, into: $0, fds: &fds, dontWait: true).count
      }
      let message = try bytes[..<count].withUnsafeBytes { try InputWire.parse($0) }
      if case .events(_, _, _, let events) = message { heard.append(events) }
    }
    #expect(heard == wanted)
    withExtendedLifetime((bridge, control.raw)) {}
  }

  /// A viewer in front of a still picture may wait for ever. One that does not ask for what there
  /// is has gone to sleep, and keeps nobody's place.
  @Test func whoSleepsIsDisconnectedAndWhoWaitsIsNot() throws {
    let bridge = try bridge { $0.timeout = 1_500_000_000 }
    let waiting = try viewer()
    _ = try look(waiting)
    let sleeping = try viewer()
    let bound = Clock.now + 20_000_000_000
    while !sleeping.isOver {
      try #require(Clock.now < bound, "it keeps its place")
      try sleeping.turn(milliseconds: 100)
    }
    #expect(try look(waiting).count == 128)
    withExtendedLifetime(bridge) {}
  }

  @Test func viewersAreLimited() throws {
    let bridge = try bridge { $0.maxViewers = 2 }
    let two = [try viewer(), try viewer()]
    let third = try RawViewer(path, loop)
    for _ in 0..<20 where !third.isOver { try third.turn(milliseconds: 10) }
    #expect(third.isOver)
    for viewer in two { #expect(try look(viewer).count == 128) }
    withExtendedLifetime(bridge) {}
  }
}
