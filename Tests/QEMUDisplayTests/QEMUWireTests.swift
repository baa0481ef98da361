import Buffers
import Pixels
import QEMUDisplay
import Scene
import Testing

@Suite("QEMU display wire")
struct QEMUWireTests {
  private func encoded(_ body: (inout QEMUWire.Encoder) -> Void) -> [UInt8] {
    var encoder = QEMUWire.Encoder()
    body(&encoder)
    return encoder.bytes
  }

  @Test("Requests without payload are a header")
  func headersOnly() {
    #expect(encoded { $0.getProtocolFeatures() } == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    #expect(encoded { $0.getDisplayInfo() } == [3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
  }

  @Test("SET_PROTOCOL_FEATURES carries 64 bits")
  func setProtocolFeatures() {
    #expect(
      encoded { $0.setProtocolFeatures([.edid, .dmabuf2]) }
        == [2, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0])
  }

  @Test("GET_EDID names the output")
  func getEDID() {
    #expect(encoded { $0.getEDID(output: 5) } == [11, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0])
  }

  @Test("CURSOR_POS and CURSOR_POS_HIDE carry signed positions")
  func cursorPosition() {
    #expect(
      encoded { $0.cursorPosition(output: 1, x: -2, y: 0x102, visible: true) }
        == [
          4, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 254, 255, 255, 255, 2, 1, 0, 0,
        ])
    #expect(encoded { $0.cursorPosition(output: 1, x: 0, y: 0, visible: false) }[0] == 5)
  }

  @Test("CURSOR_UPDATE is 16,404 bytes of payload, whatever the image")
  func cursorUpdate() {
    for count in [0, 16_384, 20_000] {
      let bytes = encoded {
        $0.cursorUpdate(
          output: 2, x: 3, y: 4, hotX: 5, hotY: 6, pixels: Array(repeating: 7, count: count))
      }
      #expect(bytes.count == 12 + 20 + 16_384)
      #expect(
        bytes[..<32]
          == [
            6, 0, 0, 0, 0, 0, 0, 0, 0x14, 0x40, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0,
            0, 0, 6, 0, 0, 0,
          ])
      #expect(bytes[32] == (count > 0 ? 7 : 0))
    }
  }

  @Test("SCANOUT carries a size")
  func scanout() {
    #expect(
      encoded { $0.scanout(output: 0, width: 1920, height: 1080) }
        == [7, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0x80, 7, 0, 0, 0x38, 4, 0, 0])
  }

  @Test("UPDATE announces its pixels")
  func update() {
    let rect = Rect(x: 1, y: 2, width: 7680, height: 4320)
    #expect(
      encoded { $0.update(output: 3, rect: rect) }
        == [
          8, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0xe9, 7, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0,
          0x1e, 0, 0, 0xe0, 0x10, 0, 0,
        ])
  }

  @Test("DMABUF_SCANOUT2 and DMABUF_UPDATE have the sizes of QEMU's structures")
  func dmabuf() {
    let layout = PixelLayout(width: 64, height: 32, stride: 256, fourcc: .xrgb8888)
    #expect(
      encoded { $0.dmabufScanout(output: 1, layout: layout, modifier: 0x0102_0304_0506_0708) }
        == [
          12, 0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 0,
          1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 32, 0, 0, 0,
          64, 0, 0, 0, 32, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x58, 0x52, 0x32, 0x34,
          8, 7, 6, 5, 4, 3, 2, 1,
        ])
    #expect(
      encoded { $0.dmabufUpdate(output: 1, rect: Rect(x: 2, y: 3, width: 4, height: 5)) }
        == [
          10, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0,
          5, 0, 0, 0,
        ])
  }

  @Test("Replies have the sizes of virtio-gpu's structures")
  func replies() {
    let features = encoded { $0.protocolFeaturesReply([.edid]) }
    #expect(features == [1, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    let mode = DisplayMode(rect: Rect(x: 0, y: 0, width: 1024, height: 768), isEnabled: true)
    let info = encoded { $0.displayInfoReply(DisplayInfo(modes: [mode])) }
    #expect(info.count == 12 + 408)
    #expect(info[..<14] == [3, 0, 0, 0, 4, 0, 0, 0, 0x98, 1, 0, 0, 1, 0x11])
    #expect(info[44..<56] == [0, 4, 0, 0, 0, 3, 0, 0, 1, 0, 0, 0])
    let edid = encoded { $0.edidReply([9, 8, 7]) }
    #expect(edid.count == 12 + 1056)
    #expect(edid[..<14] == [11, 0, 0, 0, 4, 0, 0, 0, 0x20, 4, 0, 0, 4, 0x11])
    #expect(edid[36..<47] == [3, 0, 0, 0, 0, 0, 0, 0, 9, 8, 7])
    #expect(encoded { $0.dmabufUpdateReply() } == [10, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0])
  }

  @Test("A stream is cut into the same messages whatever its pieces", arguments: [1, 3, 12, 1000])
  func reading(piece: Int) throws {
    let image = (0..<16_384).map { UInt8(truncatingIfNeeded: $0) }
    let pixels = Array(image[..<48])
    let stream = encoded {
      $0.getProtocolFeatures()
      $0.cursorUpdate(output: 1, x: -5, y: 6, hotX: 7, hotY: 8, pixels: image)
      $0.scanout(output: 2, width: 3, height: 4)
      $0.update(output: 2, rect: Rect(x: 0, y: 0, width: 3, height: 4))
    }
    var reader = QEMUMessageReader(limit: 20_000)
    var requests: [QEMURequest?] = []
    let whole = stream + pixels
    for start in stride(from: 0, to: whole.count, by: piece) {
      whole[start..<min(start + piece, whole.count)].withUnsafeBytes { reader.append($0) }
      while let message = try reader.next() { requests.append(message.request) }
    }
    #expect(reader.bytesWaiting == 0)
    #expect(
      requests == [
        .getProtocolFeatures,
        .cursorUpdate(output: 1, x: -5, y: 6, hotX: 7, hotY: 8, pixels: image),
        .scanout(output: 2, width: 3, height: 4),
        .update(output: 2, rect: Rect(x: 0, y: 0, width: 3, height: 4), pixels: pixels),
      ])
  }

  @Test("A payload beyond the limit is refused before it is there")
  func tooLarge() {
    var reader = QEMUMessageReader(limit: 16)
    encoded { $0.setProtocolFeatures([]) }.withUnsafeBytes { reader.append($0) }
    #expect(throws: Never.self) { try reader.next() }
    let header: [UInt8] = [3, 0, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255]
    header.withUnsafeBytes { reader.append($0) }
    #expect(throws: QEMUMessageReader.Failure.tooLarge(request: 3, size: .max)) {
      try reader.next()
    }
  }

  @Test("A message of the wrong size means nothing")
  func wrongSizes() throws {
    var bytes = encoded { $0.scanout(output: 0, width: 1, height: 1) }
    bytes[8] = 8
    var reader = QEMUMessageReader(limit: 100)
    bytes.withUnsafeBytes { reader.append($0) }
    let message = try #require(try reader.next())
    #expect(message.request == nil)
  }
}
