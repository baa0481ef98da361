import Bridge

/// Messages of GStreamer's unixfd protocol, which `unixfdsrc` and `unixfdsink` of
/// gst-plugins-bad 1.24 and later speak: a stream of `u32 command, u32 size, payload`, numbers in
/// the machine's order.
enum UnixFDWire {
  /// Bytes of `u32 command, u32 size`.
  static let headerSize = 8
  /// A reader lets go of a buffer: `u64 id`.
  static let releaseBuffer: UInt32 = 1
  private static let newBuffer: UInt32 = 0
  private static let caps: UInt32 = 2
  private static let endOfStream: UInt32 = 3
  private static let memfd: UInt8 = 0
  /// `GST_CLOCK_TIME_NONE` and `GST_BUFFER_OFFSET_NONE`.
  private static let none = UInt64.max

  /// A picture in memory, as GStreamer has to know it.
  struct Picture: Equatable {
    var order: OpaqueOrder
    var width: UInt32
    var height: UInt32
    /// Bytes from one row to the next.
    var stride: UInt32
    /// Bytes from the start of the file to the first row.
    var offset: UInt64

    /// Bytes from the first pixel to the end of the last one.
    var size: UInt64 { UInt64(stride) * UInt64(max(height, 1) - 1) + UInt64(width) * 4 }
    /// Rows follow each other as GStreamer expects them without being told.
    var isPacked: Bool { stride == width * 4 }
  }

  /// What the pictures that follow are.
  static func caps(of picture: Picture) -> [UInt8] {
    let format =
      switch picture.order {
      case .bgrx: "BGRx"
      case .rgbx: "RGBx"
      case .xrgb: "xRGB"
      case .xbgr: "xBGR"
      }
    let text =
      "video/x-raw, format=(string)\(format), width=(int)\(picture.width), "
      + "height=(int)\(picture.height), framerate=(fraction)0/1, "
      + "interlace-mode=(string)progressive, pixel-aspect-ratio=(fraction)1/1, "
      + "colorimetry=(string)sRGB"
    return message(caps, Array(text.utf8) + [0])
  }

  /// A picture; its descriptor travels along.
  ///
  /// - Parameters:
  ///   - id: what the reader will name when it lets go.
  ///   - timestamp: nanoseconds of `CLOCK_MONOTONIC`.
  static func buffer(id: UInt64, timestamp: UInt64, _ picture: Picture) -> [UInt8] {
    var payload: [UInt8] = []
    for word in [id, timestamp, none, none, none, none] { append(word, to: &payload) }
    append(UInt32(0), to: &payload)
    payload += [memfd, 1]
    append(UInt16(0), to: &payload)
    append(picture.size, to: &payload)
    append(picture.offset, to: &payload)
    return message(newBuffer, payload)
  }

  /// Nothing follows.
  static var end: [UInt8] { message(endOfStream, []) }

  private static func message(_ command: UInt32, _ payload: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    append(command, to: &bytes)
    append(UInt32(payload.count), to: &bytes)
    return bytes + payload
  }

  static func append<Word: FixedWidthInteger>(_ word: Word, to bytes: inout [UInt8]) {
    withUnsafeBytes(of: word) { bytes.append(contentsOf: $0) }
  }
}
