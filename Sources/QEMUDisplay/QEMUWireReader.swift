import Buffers
import Pixels

/// Cuts the byte stream of a display socket into messages, for either side.
package struct QEMUMessageReader {
  /// A message that cannot be taken.
  package enum Failure: Error, Equatable {
    /// Its header announces more payload than this side takes, in bytes.
    case tooLarge(request: UInt32, size: UInt32)
  }

  /// One whole message.
  package struct Message: Equatable, Sendable {
    package let header: QEMUWire.Header
    package let payload: [UInt8]
  }

  private let limit: Int
  private var pending: [UInt8] = []
  private var start = 0

  /// - Parameter limit: most bytes of payload to take.
  package init(limit: Int) { self.limit = limit }

  /// Bytes that wait for the rest of their message.
  package var bytesWaiting: Int { pending.count - start }

  /// Adds what a receive brought.
  package mutating func append(_ bytes: UnsafeRawBufferPointer) {
    if start > 0 {
      pending.removeFirst(start)
      start = 0
    }
    pending.append(contentsOf: bytes)
  }

  /// The next whole message, nil while some of it is missing.
  package mutating func next() throws(Failure) -> Message? {
    guard bytesWaiting >= QEMUWire.Header.size else { return nil }
    let header = QEMUWire.Header(
      request: pending.number(at: start), flags: pending.number(at: start + 4),
      size: pending.number(at: start + 8))
    guard let size = Int(exactly: header.size), size <= limit else {
      throw .tooLarge(request: header.request, size: header.size)
    }
    let body = start + QEMUWire.Header.size
    guard pending.count - body >= size else { return nil }
    start = body + size
    return Message(header: header, payload: Array(pending[body..<start]))
  }
}

extension [UInt8] {
  /// A little-endian number; missing bytes count as 0.
  func number(at offset: Int) -> UInt32 {
    var value: UInt32 = 0
    for index in 0..<4 where offset + index < count {
      value |= UInt32(self[offset + index]) << (8 * UInt32(index))
    }
    return value
  }
}

extension QEMUMessageReader.Message {
  /// What the message says; nil if its number is unknown or its size is wrong for it.
  package var request: QEMURequest? {
    func number(_ index: Int) -> UInt32 { payload.number(at: index * 4) }
    func rect() -> Rect {
      Rect(x: number(1), y: number(2), width: number(3), height: number(4))
    }
    guard let kind = QEMUWire.Request(rawValue: header.request) else { return nil }
    switch (kind, payload.count) {
    case (.getProtocolFeatures, 0): return .getProtocolFeatures
    case (.setProtocolFeatures, 8):
      return .setProtocolFeatures(
        QEMUWire.Features(rawValue: UInt64(number(1)) << 32 | UInt64(number(0))))
    case (.getDisplayInfo, 0): return .getDisplayInfo
    case (.getEDID, 4): return .getEDID(output: number(0))
    case (.cursorPosition, 12), (.cursorPositionHide, 12):
      return .cursorPosition(
        output: number(0), x: Int32(bitPattern: number(1)), y: Int32(bitPattern: number(2)),
        visible: kind == .cursorPosition)
    case (.cursorUpdate, 20 + QEMUWire.cursorBytes):
      return .cursorUpdate(
        output: number(0), x: Int32(bitPattern: number(1)), y: Int32(bitPattern: number(2)),
        hotX: number(3), hotY: number(4), pixels: Array(payload[20...]))
    case (.scanout, 12):
      return .scanout(output: number(0), width: number(1), height: number(2))
    case (.update, QEMUWire.updateSize...):
      let (pixels, overflow) = (UInt64(number(3)) * 4).multipliedReportingOverflow(
        by: UInt64(number(4)))
      guard !overflow, pixels == UInt64(payload.count - QEMUWire.updateSize) else { return nil }
      return .update(
        output: number(0), rect: rect(), pixels: Array(payload[QEMUWire.updateSize...]))
    case (.dmabufUpdate, QEMUWire.updateSize):
      return .dmabufUpdate(output: number(0), rect: rect())
    case (.dmabufScanout, 40), (.dmabufScanout2, 48):
      let layout = PixelLayout(
        width: number(3), height: number(4), stride: number(7),
        fourcc: FourCC(rawValue: number(9)))
      let modifier = UInt64(number(11)) << 32 | UInt64(number(10))
      return .dmabufScanout(
        output: number(0), layout: layout, modifier: kind == .dmabufScanout2 ? modifier : nil)
    default: return nil
    }
  }
}

/// What a backend asks of its front-end, decoded.
package enum QEMURequest: Equatable, Sendable {
  case getProtocolFeatures
  case setProtocolFeatures(QEMUWire.Features)
  case getDisplayInfo
  case getEDID(output: UInt32)
  case cursorPosition(output: UInt32, x: Int32, y: Int32, visible: Bool)
  /// `pixels`: 64 x 64 of ARGB8888.
  case cursorUpdate(
    output: UInt32, x: Int32, y: Int32, hotX: UInt32, hotY: UInt32, pixels: [UInt8])
  case scanout(output: UInt32, width: UInt32, height: UInt32)
  /// `pixels`: rows of `rect.width` pixels of XRGB8888.
  case update(output: UInt32, rect: Rect, pixels: [UInt8])
  /// The descriptor travels beside it; `modifier` is nil for the older message.
  case dmabufScanout(output: UInt32, layout: PixelLayout, modifier: UInt64?)
  case dmabufUpdate(output: UInt32, rect: Rect)
}
