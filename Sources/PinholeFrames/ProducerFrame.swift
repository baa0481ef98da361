import FrameWire
import Glibc
import Linux
import PinholeProtocol

// Frames and cursors of the producer.
extension ProducerMessage {
  static func frame(
    _ message: WireMessage<pinhole_frame>, _ fds: inout [CInt]
  ) throws(MalformedMessage) -> ReceivedFrame {
    let body = message.body
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    let known = PINHOLE_FRAME_FULL | PINHOLE_FRAME_SKIPPED | PINHOLE_FRAME_COPY_MASK
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    let kinds = [PINHOLE_FENCE_NONE.rawValue, PINHOLE_FENCE_SYNC_FILE.rawValue]
    try message.require(
      kinds.contains(body.acquire_kind), \.acquire_kind,
      "fence kind \(body.acquire_kind) was not agreed on")
    let hasFence = body.acquire_kind == PINHOLE_FENCE_SYNC_FILE.rawValue
    try message.requireDescriptors(fds.count, hasFence ? 1 : 0)
    try message.require(body.acquire_point == 0, \.acquire_point, "a point without a timeline")
    let crop = PixelRect(body.crop)
    try message.require(
      crop.fits(width: .max, height: .max), \.crop, "the crop is \(crop)")
    let count = Int(body.num_damage)
    try message.require(
      (1...Int(PINHOLE_MAX_DAMAGE)).contains(count), \.num_damage, "\(count) rectangles")
    let damage = withUnsafeBytes(of: body.damage) { bytes in
      (0..<count).map { index in
        PixelRect(bytes.loadUnaligned(fromByteOffset: index * 16, as: pinhole_rect.self))
      }
    }
    for rect in damage {
      try message.require(
        rect.fits(width: crop.width, height: crop.height), \.damage,
        "\(rect) is outside the crop \(crop)")
    }
    let fence = fds.popLast().map { ReceivedFence(OwnedFD(adopting: $0)) }
    return ReceivedFrame(
      output: body.output, serial: body.serial,
      buffer: BufferName(number: body.buffer, generation: body.generation), crop: crop,
      damage: damage, isFull: body.flags & PINHOLE_FRAME_FULL != 0,
      hasSkipped: body.flags & PINHOLE_FRAME_SKIPPED != 0, timestamp: body.timestamp_ns,
      acquire: fence,
      copyReason: FrameCopyReason(
        rawValue: (body.flags & PINHOLE_FRAME_COPY_MASK) >> PINHOLE_FRAME_COPY_SHIFT))
  }

  static func cursor(
    _ message: WireMessage<pinhole_cursor>, _ fds: [CInt]
  ) throws(MalformedMessage) -> ReceivedCursor {
    let body = message.body
    try message.require(
      body.output < PINHOLE_MAX_OUTPUTS, \.output, "there is no output \(body.output)")
    let known = PINHOLE_CURSOR_VISIBLE | PINHOLE_CURSOR_IMAGE
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    let hasImage = body.flags & PINHOLE_CURSOR_IMAGE != 0
    try message.requireDescriptors(fds.count, hasImage ? 1 : 0)
    return ReceivedCursor(
      output: body.output, isVisible: body.flags & PINHOLE_CURSOR_VISIBLE != 0, x: body.x,
      y: body.y, image: hasImage ? try image(message, fds) : nil)
  }

  private static func image(
    _ message: WireMessage<pinhole_cursor>, _ fds: [CInt]
  ) throws(MalformedMessage) -> ReceivedCursor.Image {
    let body = message.body
    let sizes = 1...PINHOLE_MAX_CURSOR
    try message.require(sizes.contains(body.width), \.width, "\(body.width) pixels across")
    try message.require(sizes.contains(body.height), \.height, "\(body.height) pixels down")
    try message.require(
      body.stride >= body.width * 4 && body.stride <= 4096, \.stride, "\(body.stride) bytes a row")
    let count = Int(body.stride) * Int(body.height)
    try message.require(body.size >= UInt64(count), \.size, "\(body.size) bytes")
    guard let fd = fds.first else { throw message.fault(nil, "no descriptor came") }
    // pread and not mmap: before Linux 6.7 F_SEAL_WRITE forbids every shared mapping.
    var complete = true
    let pixels = [UInt8](unsafeUninitializedCapacity: count) { out, initialized in
      var at = 0
      while at < count {
        let got = pread(fd, out.baseAddress.map { $0 + at }, count - at, off_t(at))
        if got < 0, errno == EINTR { continue }
        guard got > 0 else { break }
        at += got
      }
      initialized = at
      complete = at == count
    }
    try message.require(complete, \.size, "the image ends early")
    return ReceivedCursor.Image(
      width: body.width, height: body.height, hotX: body.hot_x, hotY: body.hot_y,
      fourcc: body.fourcc, stride: body.stride, pixels: pixels)
  }
}
