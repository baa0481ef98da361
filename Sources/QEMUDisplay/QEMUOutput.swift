import Buffers
import Pixels
import Scene

/// What one output shows, and what QEMU has been told of it on the present socket.
struct QEMUOutput {
  struct Size: Equatable {
    var width: UInt32
    var height: UInt32
    var whole: Rect { Rect(x: 0, y: 0, width: width, height: height) }
  }

  /// What the guest's output is, nil while it is off.
  var size: Size?
  /// The size of the SCANOUT that QEMU has, nil while it has none.
  var announced: Size?
  /// The size of the surface that QEMU has, whatever it shows.
  var surface: Size?
  /// The dma-buf that QEMU shows, nil while it shows pixels or nothing.
  var pages: QEMUPages?
  /// What changed and was not sent yet, in pixels of the output.
  var missed: Rect?
  /// The guest's cursor, nil before it had one.
  var cursor: CursorState?
  /// The cursor that QEMU was last told of on this socket.
  var sentCursor: CursorState?
  /// QEMU may show a cursor, perhaps one of an earlier socket.
  var showsCursor = false
  /// QEMU had pixels or a dma-buf on it, on any socket: it keeps them when the socket goes, and
  /// what was sent last may not have reached it.
  private var wasLit = false
  /// QEMU had a dma-buf on it, on any socket.
  private var hadPages = false
  /// QEMU had a cursor on it, on any socket.
  private var hadCursor = false
  /// What QEMU may show comes from an earlier socket.
  private var mayBeLit = false
  /// A dma-buf of an earlier socket may be on it, which only the same kind of message takes off.
  private(set) var mayHavePages = false

  /// QEMU may show an output that is off.
  var owesDisable: Bool { size == nil && (surface != nil || pages != nil || mayBeLit) }

  /// QEMU was told a size, or that there is none, on this socket.
  mutating func tell(_ size: Size?) {
    surface = size
    mayBeLit = false
    wasLit = wasLit || size != nil
  }

  /// QEMU was given a dma-buf, or told to let the last one go, on this socket.
  mutating func tell(pages new: QEMUPages?) {
    pages = new
    mayHavePages = false
    hadPages = hadPages || new != nil
    wasLit = wasLit || new != nil
    announced = nil
  }

  /// QEMU was told of the cursor on this socket.
  mutating func tell(cursor new: CursorState) {
    sentCursor = new
    showsCursor = new.image != nil
    hadCursor = hadCursor || showsCursor
  }

  /// QEMU does not show the cursor as it is.
  ///
  /// A hidden cursor that QEMU never showed is not mentioned: QEMU may move the host's pointer
  /// when it hears of one.
  var owesCursor: Bool {
    guard let cursor else { return false }
    guard cursor.image != nil else { return showsCursor }
    guard let sentCursor else { return true }
    return cursor.x != sentCursor.x || cursor.y != sentCursor.y || cursorLooksDifferent
  }

  /// QEMU does not have the cursor's image or hot spot, or shows a hidden one.
  private var cursorLooksDifferent: Bool {
    guard let cursor, let sentCursor else { return true }
    return cursor.image?.serial != sentCursor.image?.serial || cursor.hotX != sentCursor.hotX
      || cursor.hotY != sentCursor.hotY
  }

  /// The image that has to be sent with the cursor, nil if a position is enough.
  var owedImage: CursorImage? { cursorLooksDifferent ? cursor?.image : nil }

  /// A new socket: QEMU has to be told everything again, and may show what it had before.
  mutating func forgetSent() {
    announced = nil
    surface = nil
    pages = nil
    sentCursor = nil
    missed = size?.whole
    mayBeLit = wasLit
    mayHavePages = hadPages
    showsCursor = hadCursor
  }

  mutating func miss(_ rect: Rect) { missed = missed?.union(rect) ?? rect }

  /// Takes rows off the top of what was missed.
  ///
  /// - Parameter limit: most bytes of pixels; one row is always taken.
  mutating func takeBand(limit: Int) -> Rect? {
    guard let rect = missed.flatMap({ size?.whole.intersection($0) }) else {
      missed = nil
      return nil
    }
    let rows = UInt32(clamping: max(1, limit / (Int(rect.width) * 4)))
    guard rows < rect.height else {
      missed = nil
      return rect
    }
    missed = Rect(
      x: rect.x, y: rect.y + rows, width: rect.width, height: rect.height - rows)
    return Rect(x: rect.x, y: rect.y, width: rect.width, height: rows)
  }
}

extension CursorImage {
  /// The image in QEMU's fixed size: cut off, or padded with transparent pixels.
  func fixedSize() -> [UInt8] {
    let side = Int(QEMUWire.cursorSide)
    if width == QEMUWire.cursorSide, height == width, pixels.count == QEMUWire.cursorBytes {
      return pixels
    }
    var fixed = [UInt8](repeating: 0, count: QEMUWire.cursorBytes)
    let across = Int(min(width, QEMUWire.cursorSide)) * 4
    for row in 0..<min(Int(height), side) {
      let start = row * Int(width) * 4
      guard start + across <= pixels.count else { break }
      fixed.replaceSubrange(
        row * side * 4..<row * side * 4 + across, with: pixels[start..<start + across])
    }
    return fixed
  }
}
