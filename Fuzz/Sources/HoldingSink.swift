import Buffers
import Fences
import Pixels
import Scene

/// A display that looks at everything, keeps frames, and checks what it is told.
final class HoldingSink: Sink {
  var wantsBuffers = true
  var holds = true
  private unowned let scene: Scene
  private var kept: [Frame] = []
  private var revocations: [Hold] = []
  private var revoked: Set<UInt64> = []
  private var missed: OutputSet = []

  init(_ scene: Scene) { self.scene = scene }

  var lateOutputs: OutputSet { kept.count < 8 ? missed : [] }

  func pull(_ changed: OutputSet) {
    for output in 0..<Scene.outputCount where changed.contains(OutputSet(output)) {
      let news = scene.news(of: output)
      if news.hasPicture {
        missed.insert(OutputSet(output))
        look(at: output, news.damage)
      }
      if news.hasCursor { look(at: scene.cursor(output)) }
    }
  }

  func pullLate() { lookAgain() }

  /// Looks at what was missed.
  func lookAgain() {
    for output in 0..<Scene.outputCount where missed.contains(OutputSet(output)) {
      guard let size = scene.size(output) else { continue }
      look(at: output, Rect(x: 0, y: 0, width: size.width, height: size.height))
    }
  }

  private func look(at output: Int, _ damage: Rect) {
    guard let (pixels, crop) = scene.pixels(output) else { return }
    guard let size = scene.size(output) else {
      return claim(false, "a frame of output \(output), which is off")
    }
    claim(size == (crop.width, crop.height), "a frame of another size than its output's")
    claim(damage.fits(width: crop.width, height: crop.height), "damage outside the output")
    claim(
      crop.fits(width: pixels.layout.width, height: pixels.layout.height),
      "the crop is outside the picture")
    read(pixels, crop, damage)
    guard wantsBuffers, kept.count < 8, let frame = scene.frame(output, Wishes()) else { return }
    missed.remove(OutputSet(output))
    let (buffer, shown) = (frame.buffer, frame.crop)
    claim(shown.width == crop.width && shown.height == crop.height, "the buffer's crop is another")
    claim(
      shown.fits(width: buffer.layout.width, height: buffer.layout.height)
        && (buffer.layout.packed?.size ?? .max) <= buffer.size, "the picture is outside the buffer")
    claim(!revoked.contains(Self.key(buffer)), "a revoked buffer is shown")
    if holds { kept.append(frame) } else { frame.lock?.release() }
  }

  private func read(_ source: PixelSource, _ crop: Rect, _ damage: Rect) {
    let row = Int(damage.width) * 4
    let part = Rect(
      x: crop.x + damage.x, y: crop.y + damage.y, width: damage.width, height: damage.height)
    guard !part.isEmpty else { return }
    var pixels = [UInt8](repeating: 0, count: row * Int(part.height))
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      claim(source.copy(part, to: base, stride: row), "the pixels cannot be read")
    }
  }

  /// Gives the oldest frames and revocations back.
  func release(_ count: Int) {
    for _ in 0..<min(count, kept.count) { kept.removeFirst().lock?.release() }
    for _ in 0..<min(count, revocations.count) { revocations.removeFirst().release() }
  }

  func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {
    claim(revoked.insert(Self.key(buffer)).inserted, "a buffer is revoked twice")
    guard holds else { return }
    lock.retain()
    revocations.append(lock)
  }

  private static func key(_ buffer: OfferedBuffer) -> UInt64 {
    UInt64(buffer.id) << 32 | UInt64(buffer.generation)
  }

  private func look(at cursor: CursorState?) {
    guard let image = cursor?.image else { return }
    claim(
      image.pixels.count == Int(image.width) * Int(image.height) * 4, "a cursor of another size")
  }
}
