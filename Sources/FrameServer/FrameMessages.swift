import Buffers
import FrameProtocol
import PinholeProtocol
import Pixels
import Scene

/// How the server names a generation.
typealias FrameBufferKey = FrameProtocol.BufferName

extension FrameBufferKey {
  init(_ buffer: OfferedBuffer) {
    self.init(number: buffer.id, generation: buffer.generation)
  }
}

extension BufferAdd {
  init(_ buffer: OfferedBuffer) {
    self.init(
      FrameBufferKey(buffer), layout: buffer.layout,
      memory: buffer.isOriginal ? .dmaBuf : .copy, size: buffer.size,
      isYInverted: buffer.isYInverted)
  }
}

extension CursorMessage {
  /// - Parameter image: the new image; nil when the last one stays.
  init(_ state: CursorState, image: CursorImage?) {
    self.init(
      output: UInt32(truncatingIfNeeded: state.output), isVisible: state.image != nil, x: state.x,
      y: state.y)
    // Whatever the guest says, the hot spot is one of the image's pixels.
    if let shown = state.image, shown.width > 0, shown.height > 0 {
      hotX = min(state.hotX, shown.width - 1)
      hotY = min(state.hotY, shown.height - 1)
    }
    self.image = image.map { Image(width: $0.width, height: $0.height) }
  }
}

extension RemovalReason {
  init(_ reason: RevocationReason) {
    switch reason {
    case .destroyed: self = .destroyed
    case .discarded: self = .discarded
    case .rebacked: self = .rebacked
    case .reset: self = .reset
    case .memoryRemoved: self = .memory
    case .unused: self = .unused
    case .shutdown: self = .shutdown
    case .timeout: self = .timeout
    }
  }
}

extension WhyCopied {
  /// As FRAME says it; nil where nobody knows.
  var code: FrameCopyReason? {
    switch self {
    case .redrawn: .redrawn
    case .asked: .operator
    case .wanted: .asked
    case .untrusted: .socket
    case .late: .late
    case .alignment: .alignment
    case .pages(let kind):
      switch kind {
      case .noDevice, .noAccess, .failed: .udmabuf
      case .witnessUnavailable: .witness
      case .notMemfd, .noShrinkSeal, .writeSealed, nil: .memory
      case .unalignedStart, .unalignedEntry, .unalignedLength, .tooShort: .placement
      case .tooManyEntries, .tooLarge: .limit
      case .overPinBudget, .notLetGo: .budget
      case .discardsOutran: .discards
      }
    }
  }
}
