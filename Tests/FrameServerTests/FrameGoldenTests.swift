import Buffers
import Linux
import PinholeProtocol
import Pixels
import Scene
import Testing

@testable import FrameServer

/// What the server sends, byte for byte.
@Suite struct FrameGoldenTests {
  private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { byte in
      let text = String(byte, radix: 16)
      return text.count == 1 ? "0" + text : text
    }.joined()
  }

  private func connect(_ bench: FrameBench) throws -> OwnedFD {
    let socket = try bench.socket()
    try RawConsumer.send(socket.raw, RawConsumer.hello())
    try bench.turn()
    return socket
  }

  private func next(_ socket: CInt) throws -> String {
    hex(try #require(try RawConsumer.receive(socket)))
  }

  @Test func producerHello() throws {
    let bench = try FrameBench {
      $0.holdDeadline = 40_000_000
      $0.closeDeadline = 30_000_000
    }
    let socket = try connect(bench)
    #expect(
      try next(socket.raw)
        == "01010000" + "48000000"  // type, size
        + "50484652" + "01000000"  // magic, version
        + "0000000000000000"  // features
        + "02000000" + "409c0000" + "30750000" + "10000000"  // in flight, hold, close, outputs
        + "70696e686f6c65" + String(repeating: "00", count: 25))  // name
  }

  @Test func outputBufferFrameAndRemoval() throws {
    let bench = try FrameBench()
    let socket = try connect(bench)
    _ = try next(socket.raw)
    bench.server.output(2, resized: (64, 32))
    #expect(
      try next(socket.raw)
        == "02010000" + "20000000" + "02000000" + "01000000" + "40000000" + "20000000"
        + "00000000" + "00000000")
    let buffer = try FakeBuffer(3, 9)
    try bench.show(
      buffer, output: 2, crop: Rect(x: 0, y: 0, width: 64, height: 32),
      damage: Rect(x: 1, y: 1, width: 1, height: 1))
    #expect(
      try next(socket.raw)
        == "03010000" + "78000000" + "03000000" + "09000000"  // buffer, generation
        + "40000000" + "20000000" + "58523234" + "02000000"  // size, fourcc, flags
        + "0000000000000000" + "0020000000000000"  // modifier, size
        + "01000000" + "01000000"  // planes, descriptors
        + "00000000" + "00010000" + "0000000000000000"  // descriptor, stride, offset
        + String(repeating: "00", count: 48))
    var frame = try next(socket.raw)
    // The time stamp is the one thing that differs between runs.
    let stamp = frame.index(frame.startIndex, offsetBy: 128)
    frame.replaceSubrange(stamp..<frame.index(stamp, offsetBy: 16), with: "tttttttttttttttt")
    #expect(
      frame
        == "04010000" + "48010000" + "02000000" + "01000000"  // output, flags
        + "0100000000000000" + "03000000" + "09000000"  // serial, buffer, generation
        + "00000000" + "00000000" + "40000000" + "20000000"  // crop
        + "00000000" + "01000000" + "0000000000000000" + "tttttttttttttttt"
        + "00000000" + "00000000" + "40000000" + "20000000"
        + String(repeating: "00", count: 240))
    bench.server.revoke(buffer.offered, reason: .discarded) {}
    #expect(
      try next(socket.raw)
        == "05010000" + "18000000" + "03000000" + "09000000" + "02000000" + "00000000")
    bench.server.output(2, resized: nil)
    #expect(
      try next(socket.raw) == "02010000" + "20000000" + "02000000"
        + String(repeating: "00", count: 20))
  }

  @Test func cursorAndError() throws {
    let bench = try FrameBench()
    let socket = try connect(bench)
    _ = try next(socket.raw)
    let image = CursorImage(
      width: 2, height: 1, pixels: [1, 2, 3, 4, 5, 6, 7, 8], serial: 1)
    bench.server.cursor(
      CursorState(output: 1, x: -1, y: 300, hotX: 1, hotY: 0, image: image), imageChanged: true)
    #expect(
      try next(socket.raw)
        == "06010000" + "38000000" + "01000000" + "03000000" + "ffffffff" + "2c010000"
        + "01000000" + "00000000" + "02000000" + "01000000" + "41523234" + "08000000"
        + "0800000000000000")
    bench.server.cursor(
      CursorState(output: 1, x: 2, y: 3, hotX: 1, hotY: 0, image: image), imageChanged: false)
    #expect(
      try next(socket.raw)
        == "06010000" + "38000000" + "01000000" + "01000000" + "02000000" + "03000000"
        + "01000000" + String(repeating: "00", count: 28))
    try RawConsumer.send(socket.raw, RawConsumer.closed(1, 2))
    try bench.turn()
    let text = "627566666572 20 312e32 20 776173 20 6e6f74 20 72656d6f766564"
      .filter { $0 != " " }
    #expect(
      try next(socket.raw)
        == "07010000" + "80000000" + "03000000" + "03000000" + "08000000" + "00000000" + text
        + String(repeating: "00", count: 104 - text.count / 2))
  }
}
