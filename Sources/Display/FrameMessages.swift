import Buffers
import FrameWire
import PinholeProtocol
import VirtioGPU

/// A struct of the frame protocol's header that goes to consumers.
protocol FrameMessage {
  static var type: pinhole_message { get }
  var header: pinhole_header { get set }
  init()
}

extension FrameMessage {
  /// All zero but for its header.
  static func empty() -> Self {
    var message = Self()
    message.header = pinhole_header(
      type: type.rawValue, size: UInt32(MemoryLayout<Self>.size))
    return message
  }
}

extension pinhole_producer_hello: FrameMessage {
  static var type: pinhole_message { PINHOLE_PRODUCER_HELLO }
}
extension pinhole_output: FrameMessage {
  static var type: pinhole_message { PINHOLE_OUTPUT }
}
extension pinhole_buffer_add: FrameMessage {
  static var type: pinhole_message { PINHOLE_BUFFER_ADD }
}
extension pinhole_frame: FrameMessage {
  static var type: pinhole_message { PINHOLE_FRAME }
}
extension pinhole_buffer_remove: FrameMessage {
  static var type: pinhole_message { PINHOLE_BUFFER_REMOVE }
}
extension pinhole_cursor: FrameMessage {
  static var type: pinhole_message { PINHOLE_CURSOR }
}
extension pinhole_error: FrameMessage {
  static var type: pinhole_message { PINHOLE_ERROR }
}

extension pinhole_rect {
  init(_ rect: Rect) {
    self.init(x: rect.x, y: rect.y, width: rect.width, height: rect.height)
  }
}

extension pinhole_output {
  init(_ output: Int, _ size: (width: UInt32, height: UInt32)?) {
    self = .empty()
    self.output = UInt32(truncatingIfNeeded: output)
    guard let size else { return }
    flags = PINHOLE_OUTPUT_ENABLED
    width = size.width
    height = size.height
  }
}

extension pinhole_buffer_add {
  init(_ buffer: OfferedBuffer) {
    self = .empty()
    self.buffer = buffer.id
    generation = buffer.generation
    width = buffer.layout.width
    height = buffer.layout.height
    fourcc = buffer.layout.fourcc.rawValue
    flags = buffer.memory == .guestPages ? PINHOLE_BUFFER_DMABUF : PINHOLE_BUFFER_COPY
    if buffer.isYInverted { flags |= PINHOLE_BUFFER_Y_INVERT }
    modifier = linearModifier
    size = buffer.size
    num_planes = 1
    num_fds = 1
    planes.0 = pinhole_plane(
      fd_index: 0, stride: buffer.layout.stride, offset: buffer.layout.offset)
  }
}

extension pinhole_buffer_remove {
  init(_ key: FrameBufferKey, _ reason: WithdrawReason) {
    self = .empty()
    buffer = key.id
    generation = key.generation
    self.reason = reason.rawValue
  }
}

extension pinhole_cursor {
  /// - Parameter image: the new image; nil when the last one stays.
  init(_ state: CursorState, image: CursorImage?) {
    self = .empty()
    output = UInt32(truncatingIfNeeded: state.output)
    if state.image != nil { flags = PINHOLE_CURSOR_VISIBLE }
    x = state.x
    y = state.y
    guard let image else { return }
    flags |= PINHOLE_CURSOR_IMAGE
    hot_x = state.hotX
    hot_y = state.hotY
    width = image.width
    height = image.height
    fourcc = FourCC.argb8888.rawValue
    stride = image.width &* 4
    size = UInt64(image.pixels.count)
  }
}

extension pinhole_error {
  init(_ fault: MalformedMessage) {
    self = .empty()
    code = fault.code.rawValue
    message_type = fault.type
    field_offset = fault.field
    WireText.write(fault.text, to: &text)
  }
}

extension WhyCopied {
  /// As FRAME says it.
  var code: pinhole_copy_reason {
    switch self {
    case .redrawn: PINHOLE_COPY_REDRAWN
    case .asked: PINHOLE_COPY_OPERATOR
    case .pages(let kind):
      switch kind {
      case .noDevice, .noAccess, .failed: PINHOLE_COPY_UDMABUF
      case .witnessUnavailable: PINHOLE_COPY_WITNESS
      case .notMemfd, .noShrinkSeal, .writeSealed, nil: PINHOLE_COPY_MEMORY
      case .unalignedStart, .unalignedEntry, .unalignedLength, .tooShort: PINHOLE_COPY_PLACEMENT
      case .tooManyEntries, .tooLarge: PINHOLE_COPY_LIMIT
      case .overPinBudget: PINHOLE_COPY_BUDGET
      case .discardsOutran: PINHOLE_COPY_DISCARDS
      }
    }
  }
}
