import Buffers
import Fences
import VirtioGPU

/// A display that looks at everything, keeps frames, and checks what it is told.
final class HoldingSink: DisplaySink {
  var wantsBuffers = true
  var holds = true
  private(set) var outputsOn: [Int: (width: UInt32, height: UInt32)] = [:]
  private var kept: [(Hold?, OfferedBuffer)] = []
  private var withdrawals: [() -> Void] = []
  private var withdrawn: Set<UInt64> = []

  func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    claim((0..<16).contains(index), "there is no output \(index)")
    outputsOn[index] = size
  }

  func present(_ frame: Frame) {
    let crop = frame.crop
    guard let size = outputsOn[frame.output] else {
      return claim(false, "a frame of output \(frame.output), which is off")
    }
    claim(size == (crop.width, crop.height), "a frame of another size than its output's")
    claim(frame.damage.fits(width: crop.width, height: crop.height), "damage outside the output")
    claim(
      crop.fits(width: frame.pixels.layout.width, height: frame.pixels.layout.height),
      "the crop is outside the picture")
    look(at: frame)
    guard let buffer = frame.buffer else { return }
    let shown = frame.bufferCrop
    claim(shown.width == crop.width && shown.height == crop.height, "the buffer's crop is another")
    claim(
      shown.fits(width: buffer.layout.width, height: buffer.layout.height)
        && buffer.layout.size <= buffer.size, "the picture is outside the buffer")
    claim(!withdrawn.contains(Self.key(buffer)), "a withdrawn buffer is shown")
    guard holds else { return }
    buffer.beginUse()
    frame.hold?.retain()
    kept.append((frame.hold, buffer))
  }

  private func look(at frame: Frame) {
    let row = Int(frame.damage.width) * 4
    let part = Rect(
      x: frame.crop.x + frame.damage.x, y: frame.crop.y + frame.damage.y,
      width: frame.damage.width, height: frame.damage.height)
    guard !part.isEmpty else { return }
    var pixels = [UInt8](repeating: 0, count: row * Int(part.height))
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      claim(frame.pixels.copy(part, to: base, stride: row), "the pixels cannot be read")
    }
  }

  /// Gives the oldest frames and withdrawals back.
  func release(_ count: Int) {
    for _ in 0..<min(count, kept.count) {
      let (hold, buffer) = kept.removeFirst()
      buffer.endUse()
      hold?.release()
    }
    for _ in 0..<min(count, withdrawals.count) { withdrawals.removeFirst()() }
  }

  func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) {
    claim(withdrawn.insert(Self.key(buffer)).inserted, "a buffer is withdrawn twice")
    if holds { withdrawals.append(released) } else { released() }
  }

  private static func key(_ buffer: OfferedBuffer) -> UInt64 {
    UInt64(buffer.id) << 32 | UInt64(buffer.generation)
  }

  func cursor(_ state: CursorState, imageChanged: Bool) {
    claim((0..<16).contains(state.output), "there is no output \(state.output)")
    guard let image = state.image else { return }
    claim(
      image.pixels.count == Int(image.width) * Int(image.height) * 4, "a cursor of another size")
  }
}
