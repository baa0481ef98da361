import PinholeProtocol
import Pixels

/// FRAME.
package struct FrameMessage: FrameProtocolMessage, Equatable {
  /// Which output, below `PINHOLE_MAX_OUTPUTS`.
  package var output: UInt32
  /// Rises with every frame of the output.
  package var serial: UInt64
  /// Where the pixels are.
  package var buffer: BufferName
  /// What the output shows, in pixels of the buffer.
  package var crop: Rect
  /// What changed, relative to the crop; where anything did, decoded as the whole crop.
  package var damage: [Rect]
  /// Anything may have changed; the damage is the whole crop.
  package var isFull: Bool
  /// Frames were left out.
  package var hasSkipped: Bool
  /// One sync_file to wait for comes with it.
  package var hasFence: Bool
  /// `CLOCK_MONOTONIC` of the guest's flush in nanoseconds.
  package var timestamp: UInt64
  /// Why the buffer is a copy; nil where it is not one, or nobody says.
  package var copyReason: FrameCopyReason?

  /// Describes a frame in which anything may have changed, unless there is a damage.
  ///
  /// - Parameter damage: relative to the crop; what lies outside is left out.
  package init(
    output: UInt32, serial: UInt64, buffer: BufferName, crop: Rect, damage: [Rect]? = nil,
    hasSkipped: Bool = false, hasFence: Bool = false, timestamp: UInt64 = 0,
    copyReason: FrameCopyReason? = nil
  ) {
    self.output = output
    self.serial = serial
    self.buffer = buffer
    self.crop = crop
    self.damage = damage ?? []
    isFull = damage == nil
    self.hasSkipped = hasSkipped
    self.hasFence = hasFence
    self.timestamp = timestamp
    self.copyReason = copyReason
  }

  private static func whole(_ crop: Rect) -> Rect { Rect(width: crop.width, height: crop.height) }

  package init(
    _ message: WireMessage<pinhole_frame>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    let known = PINHOLE_FRAME_FULL | PINHOLE_FRAME_SKIPPED | PINHOLE_FRAME_COPY_MASK
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    crop = Rect(body.crop)
    try message.require(
      !crop.isEmpty && crop.fits(width: PINHOLE_MAX_SIZE, height: PINHOLE_MAX_SIZE), \.crop,
      "the crop is \(crop)")
    hasFence = body.acquire_kind == PINHOLE_FENCE_SYNC_FILE.rawValue
    let isAgreed = hasFence && context.features & PINHOLE_FEATURE_SYNC_FILE != 0
    try message.require(
      isAgreed || body.acquire_kind == PINHOLE_FENCE_NONE.rawValue, \.acquire_kind,
      "fence kind \(body.acquire_kind) was not agreed on")
    try message.require(
      (1...UInt32(PINHOLE_MAX_DAMAGE)).contains(body.num_damage), \.num_damage,
      "\(body.num_damage) rectangles")
    try message.require(body.acquire_point == 0, \.acquire_point, "a point without a timeline")
    isFull = body.flags & PINHOLE_FRAME_FULL != 0
    damage = Self.damage(of: body)
    for rect in damage {
      try message.require(
        !rect.isEmpty && rect.fits(width: crop.width, height: crop.height), \.damage,
        "\(rect) is outside the crop \(crop)")
    }
    try message.require(
      !isFull || damage == [Self.whole(crop)], \.damage, "FULL, and not the whole crop")
    try message.requireDescriptors(context.descriptors, hasFence ? 1 : 0)
    output = body.output
    serial = body.serial
    buffer = BufferName(number: body.buffer, generation: body.generation)
    hasSkipped = body.flags & PINHOLE_FRAME_SKIPPED != 0
    timestamp = body.timestamp_ns
    copyReason = FrameCopyReason(
      rawValue: (body.flags & PINHOLE_FRAME_COPY_MASK) >> PINHOLE_FRAME_COPY_SHIFT)
  }

  private static func damage(of body: pinhole_frame) -> [Rect] {
    withUnsafeBytes(of: body.damage) { bytes in
      (0..<Int(min(body.num_damage, UInt32(PINHOLE_MAX_DAMAGE)))).map { index in
        Rect(
          bytes.loadUnaligned(
            fromByteOffset: index * MemoryLayout<pinhole_rect>.stride, as: pinhole_rect.self))
      }
    }
  }

  package var wire: pinhole_frame {
    var frame = pinhole_frame.empty()
    frame.output = output
    if isFull { frame.flags |= PINHOLE_FRAME_FULL }
    if hasSkipped { frame.flags |= PINHOLE_FRAME_SKIPPED }
    if let copyReason { frame.flags |= copyReason.rawValue << PINHOLE_FRAME_COPY_SHIFT }
    frame.serial = serial
    frame.buffer = buffer.number
    frame.generation = buffer.generation
    frame.crop = pinhole_rect(crop)
    if hasFence { frame.acquire_kind = PINHOLE_FENCE_SYNC_FILE.rawValue }
    frame.timestamp_ns = timestamp
    let whole = Self.whole(crop)
    var count = 0
    withUnsafeMutableBytes(of: &frame.damage) { bytes in
      func put(_ rect: Rect) {
        bytes.storeBytes(
          of: pinhole_rect(rect), toByteOffset: count * MemoryLayout<pinhole_rect>.stride,
          as: pinhole_rect.self)
        count += 1
      }
      for rect in damage where count < Int(PINHOLE_MAX_DAMAGE) {
        if let part = rect.intersection(whole) { put(part) }
      }
      if count == 0 { put(whole) }
    }
    frame.num_damage = UInt32(count)
    return frame
  }
}

extension Rect {
  /// As the header has it.
  package init(_ rect: pinhole_rect) {
    self.init(x: rect.x, y: rect.y, width: rect.width, height: rect.height)
  }
}

extension pinhole_rect {
  /// As the header has it.
  package init(_ rect: Rect) {
    self.init(x: rect.x, y: rect.y, width: rect.width, height: rect.height)
  }
}

/// CURSOR.
package struct CursorMessage: FrameProtocolMessage, Equatable {
  /// What comes with a new image.
  package struct Image: Equatable {
    /// Pixels across, 1 to `PINHOLE_MAX_CURSOR`.
    package var width: UInt32
    /// Pixels down, 1 to `PINHOLE_MAX_CURSOR`.
    package var height: UInt32
    /// Bytes from one row to the next.
    package var stride: UInt32
    /// Bytes of the memfd.
    package var size: UInt64

    /// Describes rows without gaps.
    package init(width: UInt32, height: UInt32) {
      self.width = width
      self.height = height
      stride = width &* 4
      size = UInt64(stride) * UInt64(height)
    }
  }

  /// Which output, below `PINHOLE_MAX_OUTPUTS`.
  package var output: UInt32
  /// Whether it is shown.
  package var isVisible: Bool
  /// Of the hot spot, in pixels of the output.
  package var x: Int32
  /// Of the hot spot, in pixels of the output.
  package var y: Int32
  /// The hot spot inside the image, also where that does not come; 0 where there is none.
  package var hotX: UInt32
  /// The hot spot inside the image, also where that does not come; 0 where there is none.
  package var hotY: UInt32
  /// The new image; nil when the last one of the output stays.
  package var image: Image?

  /// Places or hides a cursor.
  package init(
    output: UInt32, isVisible: Bool, x: Int32, y: Int32, hotX: UInt32 = 0, hotY: UInt32 = 0,
    image: Image? = nil
  ) {
    self.output = output
    self.isVisible = isVisible
    self.x = x
    self.y = y
    self.hotX = hotX
    self.hotY = hotY
    self.image = image
  }

  package init(
    _ message: WireMessage<pinhole_cursor>, _ context: WireContext
  ) throws(MalformedMessage) {
    let body = message.body
    try message.requireOutput(body.output, \.output)
    let known = PINHOLE_CURSOR_VISIBLE | PINHOLE_CURSOR_IMAGE
    try message.require(body.flags & ~known == 0, \.flags, "unknown flags \(body.flags)")
    self.init(
      output: body.output, isVisible: body.flags & PINHOLE_CURSOR_VISIBLE != 0, x: body.x,
      y: body.y, hotX: body.hot_x, hotY: body.hot_y)
    if body.flags & PINHOLE_CURSOR_IMAGE != 0 {
      let new = try Image(message)
      try message.require(
        hotX < new.width, \.hot_x, "the hot spot is \(hotX) of \(new.width) pixels across")
      try message.require(
        hotY < new.height, \.hot_y, "the hot spot is \(hotY) of \(new.height) pixels down")
      image = new
    } else {
      // Of the last image, which no image can be larger than.
      try message.require(hotX < PINHOLE_MAX_CURSOR, \.hot_x, "the hot spot is \(hotX)")
      try message.require(hotY < PINHOLE_MAX_CURSOR, \.hot_y, "the hot spot is \(hotY)")
    }
    try message.requireDescriptors(context.descriptors, image == nil ? 0 : 1)
  }

  package var wire: pinhole_cursor {
    var cursor = pinhole_cursor.empty()
    cursor.output = output
    if isVisible { cursor.flags = PINHOLE_CURSOR_VISIBLE }
    cursor.x = x
    cursor.y = y
    cursor.hot_x = hotX
    cursor.hot_y = hotY
    guard let image else { return cursor }
    cursor.flags |= PINHOLE_CURSOR_IMAGE
    cursor.width = image.width
    cursor.height = image.height
    cursor.fourcc = FourCC.argb8888.rawValue
    cursor.stride = image.stride
    cursor.size = image.size
    return cursor
  }
}

extension CursorMessage.Image {
  fileprivate init(_ message: WireMessage<pinhole_cursor>) throws(MalformedMessage) {
    let body = message.body
    let sizes = 1...PINHOLE_MAX_CURSOR
    try message.require(sizes.contains(body.width), \.width, "\(body.width) pixels across")
    try message.require(sizes.contains(body.height), \.height, "\(body.height) pixels down")
    try message.require(
      body.fourcc == FourCC.argb8888.rawValue, \.fourcc,
      "format \(FourCC(rawValue: body.fourcc))")
    try message.require(
      body.stride >= body.width * 4 && body.stride <= 4096, \.stride, "\(body.stride) bytes a row")
    let count = UInt64(body.stride) * UInt64(body.height)
    try message.require(
      body.size >= count && body.size <= UInt64(PINHOLE_MAX_CURSOR_BYTES), \.size,
      "\(body.size) bytes")
    self.init(width: body.width, height: body.height)
    stride = body.stride
    size = body.size
  }
}
