import FrameProtocol
import PinholeProtocol
import Pixels
import Testing

/// Every message of both directions, byte for byte, there and back.
@Suite struct GoldenTests {
  private func hex(_ bytes: UnsafeRawBufferPointer) -> String {
    bytes.map { byte in
      let text = String(byte, radix: 16)
      return text.count == 1 ? "0" + text : text
    }.joined()
  }

  /// Encodes, compares, and decodes again.
  private func check<Message: FrameProtocolMessage & Equatable>(
    _ message: Message, _ golden: String, descriptors: Int = 0, features: UInt64 = .max
  ) throws {
    let wire = message.wire
    let expected = golden.filter { $0 != " " }
    let size = MemoryLayout<Message.Wire>.size
    let text = withUnsafeBytes(of: wire) { hex($0) }
    #expect(text == expected + String(repeating: "0", count: max(0, size * 2 - expected.count)))
    let again = try withUnsafeBytes(of: wire) { packet in
      try Message(
        WireMessage(packet, WireHeader(packet)),
        WireContext(descriptors: descriptors, features: features))
    }
    #expect(again == message)
  }

  @Test func consumersMessages() throws {
    var hello = ConsumerHello(name: "abc")
    hello.isCopyOnly = true
    hello.isExplicit = true
    hello.features = 0x1c
    hello.strideAlignment = 256
    hello.heightAlignment = 64
    try check(
      hello,
      "01000000 48000000 50484652 01000000 01000000 03000000 1c00000000000000 00010000 40000000"
        + "616263")
    try check(
      FrameDone(output: 2, serial: 0x0102, release: .now),
      "02000000 20000000 02000000 00000000 0201000000000000 0000000000000000")
    try check(
      FrameDone(output: 2, serial: 1, release: .syncFile),
      "02000000 20000000 02000000 01000000 0100000000000000 0000000000000000", descriptors: 1)
    try check(
      FrameDone(output: 2, serial: 1, release: .point(7)),
      "02000000 20000000 02000000 02000000 0100000000000000 0700000000000000")
    try check(
      BufferClosed(BufferName(number: 3, generation: 9)), "03000000 10000000 03000000 09000000")
    try check(
      TimelineAdd(output: 4, syncobj: 1, node: 0),
      "04000000 18000000 04000000 00000000 01000000 00000000", descriptors: 2)
    try check(TimelineRemove(output: 4), "05000000 10000000 04000000 00000000")
  }

  @Test func producersMessages() throws {
    try check(
      Producer(
        features: 3, maxInFlight: 2, holdDeadline: 40_000, closeDeadline: 30_000, name: "pinhole"),
      "01010000 48000000 50484652 01000000 0300000000000000 02000000 409c0000 30750000 10000000"
        + "70696e686f6c65")
    try check(
      OutputState(output: 2, size: (64, 32), refresh: 60_000),
      "02010000 20000000 02000000 01000000 40000000 20000000 60ea0000 00000000")
    try check(OutputState(output: 2), "02010000 20000000 02000000")
    try check(
      BufferRemove(BufferName(number: 3, generation: 9), .discarded),
      "05010000 18000000 03000000 09000000 02000000 00000000")
    var cursor = CursorMessage(output: 1, isVisible: true, x: -1, y: 300, hotX: 1)
    try check(
      cursor, "06010000 38000000 01000000 01000000 ffffffff 2c010000 01000000 00000000")
    cursor.image = CursorMessage.Image(width: 2, height: 1)
    try check(
      cursor,
      "06010000 38000000 01000000 03000000 ffffffff 2c010000 01000000 00000000 02000000 01000000"
        + "41523234 08000000 0800000000000000", descriptors: 1)
    try check(
      Refusal(code: 2, messageType: 1, field: 8, text: "abc"),
      "07010000 80000000 02000000 01000000 08000000 00000000 616263")
    try check(
      Refusal(code: 9, messageType: 0, field: nil, text: ""),
      "07010000 80000000 09000000 00000000 ffffffff")
  }

  @Test func buffers() throws {
    let name = BufferName(number: 3, generation: 9)
    let packed = PixelLayout(width: 64, height: 32, stride: 256, offset: 16, fourcc: .xrgb8888)
    try check(
      BufferAdd(name, layout: ImageLayout(packed), memory: .copy, size: 12288, isYInverted: true),
      "03010000 78000000 03000000 09000000 40000000 20000000 58523234 06000000"
        + "0000000000000000 0030000000000000 01000000 01000000"
        + "00000000 00010000 1000000000000000", descriptors: 1)
    let planes = [
      PixelPlane(descriptor: 0, stride: 64, offset: 0),
      PixelPlane(descriptor: 1, stride: 32, offset: 4096),
    ]
    try check(
      BufferAdd(
        name,
        layout: ImageLayout(
          width: 64, height: 32, fourcc: FourCC("N", "V", "1", "2"),
          modifier: 0x0100_0000_0000_0002, planes: planes), memory: .dmaBuf, size: 8192),
      "03010000 78000000 03000000 09000000 40000000 20000000 4e563132 01000000"
        + "0200000000000001 0020000000000000 02000000 02000000"
        + "00000000 40000000 0000000000000000 01000000 20000000 0010000000000000", descriptors: 2)
  }

  @Test func frames() throws {
    let name = BufferName(number: 3, generation: 9)
    let damage = [Rect(x: 1, y: 2, width: 3, height: 4), Rect(width: 1, height: 1)]
    try check(
      FrameMessage(
        output: 2, serial: 5, buffer: name, crop: Rect(x: 8, y: 16, width: 64, height: 32),
        damage: damage, hasSkipped: true, hasFence: true, timestamp: 0x1122, copyReason: .late),
      "04010000 48010000 02000000 02030000 0500000000000000 03000000 09000000"
        + "08000000 10000000 40000000 20000000 01000000 02000000 0000000000000000 2211000000000000"
        + "01000000 02000000 03000000 04000000 00000000 00000000 01000000 01000000", descriptors: 1)
    let full = FrameMessage(
      output: 2, serial: 5, buffer: name, crop: Rect(x: 8, y: 16, width: 64, height: 32))
    let text = withUnsafeBytes(of: full.wire) { hex($0) }
    #expect(text.dropFirst(24).prefix(8) == "01000000")
    #expect(text.dropFirst(144).prefix(32) == "0000000000000000" + "4000000020000000")
  }

  /// More than a message holds, or what is outside of the crop, is left out; never all of it.
  @Test func damageFitsTheMessage() {
    let name = BufferName(number: 1, generation: 1)
    let many = (0..<UInt32(40)).map { Rect(x: $0, width: 1, height: 1) }
    func wire(_ damage: [Rect]) -> pinhole_frame {
      FrameMessage(
        output: 0, serial: 1, buffer: name, crop: Rect(x: 5, width: 64, height: 1), damage: damage
      ).wire
    }
    #expect(wire(many).num_damage == UInt32(PINHOLE_MAX_DAMAGE))
    #expect(wire([Rect(x: 64, width: 9, height: 9)]).num_damage == 1)
    #expect(wire([Rect(x: 60, width: 9, height: 9)]).damage.0.width == 4)
  }
}

/// The numbers of the library are those of the header.
@Suite struct HeaderTests {
  private static let removals: [(RemovalReason, pinhole_remove_reason)] = [
    (.destroyed, PINHOLE_REMOVE_DESTROYED), (.discarded, PINHOLE_REMOVE_DISCARDED),
    (.rebacked, PINHOLE_REMOVE_REBACKED), (.reset, PINHOLE_REMOVE_RESET),
    (.memory, PINHOLE_REMOVE_MEMORY), (.unused, PINHOLE_REMOVE_UNUSED),
    (.shutdown, PINHOLE_REMOVE_SHUTDOWN), (.timeout, PINHOLE_REMOVE_TIMEOUT),
  ]

  private static let copies: [(FrameCopyReason, pinhole_copy_reason)] = [
    (.asked, PINHOLE_COPY_ASKED), (.socket, PINHOLE_COPY_SOCKET), (.late, PINHOLE_COPY_LATE),
    (.alignment, PINHOLE_COPY_ALIGNMENT), (.redrawn, PINHOLE_COPY_REDRAWN),
    (.operator, PINHOLE_COPY_OPERATOR), (.udmabuf, PINHOLE_COPY_UDMABUF),
    (.witness, PINHOLE_COPY_WITNESS), (.memory, PINHOLE_COPY_MEMORY),
    (.placement, PINHOLE_COPY_PLACEMENT), (.limit, PINHOLE_COPY_LIMIT),
    (.budget, PINHOLE_COPY_BUDGET), (.discards, PINHOLE_COPY_DISCARDS),
  ]

  @Test func reasonsOfRemoval() {
    for (reason, number) in Self.removals { #expect(reason.rawValue == number.rawValue) }
    #expect(Set(Self.removals.map(\.0)) == Set(RemovalReason.allCases))
  }

  @Test func reasonsOfCopies() {
    for (reason, number) in Self.copies { #expect(reason.rawValue == number.rawValue) }
    #expect(Set(Self.copies.map(\.0)) == Set(FrameCopyReason.allCases))
  }

  @Test func everyCodeHasAName() {
    for code in 1...PINHOLE_ERROR_SHUTDOWN.rawValue {
      #expect(!WireName.error(code).hasPrefix("error"))
    }
    for type in [1, 2, 3, 4, 5, 0x101, 0x102, 0x103, 0x104, 0x105, 0x106, 0x107] as [UInt32] {
      #expect(!WireName.message(type).hasPrefix("message"))
    }
  }

  @Test func textsAreHarmless() {
    var name = pinhole_consumer_hello().name
    withUnsafeMutableBytes(of: &name) {
      $0.copyBytes(from: Array("a\n\u{1b}[31mb\u{9b}\u{2028}\u{202e}é\u{7f}".utf8))
    }
    #expect(WireText.read(name) == "a\u{fffd}\u{fffd}[31mb\u{fffd}\u{fffd}\u{fffd}é\u{fffd}")
    // What changes the direction of writing.
    WireText.write("a\u{200f}b\u{2067}c\u{2069}", to: &name)
    #expect(WireText.read(name) == "a\u{fffd}b\u{fffd}c\u{fffd}")
    WireText.write("x\ny\0z", to: &name)
    #expect(WireText.read(name) == "x\u{fffd}y\u{fffd}z")
  }
}
