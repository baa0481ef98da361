import Buffers
import Fences
import Pixels
import Scene

/// A third kind of display: keeps a film of each output for as long as it has room, and answers
/// for what it keeps. It touches no file of the device's or the scene's.
final class FilmRecorder: Sink {
  /// A picture that was taken.
  struct Shot {
    let frame: Frame
    let pixels: [UInt32]
    /// All that changed since the shot before.
    let damage: Rect
  }

  var wantsBuffers = true
  var wishes = Wishes()
  /// Shots that may be kept at a time.
  var room: Int
  private(set) var reel: [Shot] = []
  private(set) var sizes: [Int: (width: UInt32, height: UInt32)] = [:]
  private(set) var revoked: [(id: UInt32, reason: RevocationReason)] = []
  /// Times that the guest did not wait for it any longer.
  private(set) var expired = 0
  /// Times that it was asked for what was read meanwhile.
  private(set) var reviews = 0
  private var owed: [Int: Rect] = [:]
  private var leaving: [(buffer: OfferedBuffer, lock: Hold)] = []
  private unowned let scene: Scene

  init(_ scene: Scene, room: Int) {
    self.scene = scene
    self.room = room
  }

  var lateOutputs: OutputSet {
    guard reel.count < room else { return [] }
    return owed.keys.reduce([]) { $0.union(OutputSet($1)) }
  }

  func pull(_ changed: OutputSet) {
    for output in 0..<Scene.outputCount where changed.contains(OutputSet(output)) {
      let news = scene.news(of: output)
      if news.isResized {
        sizes[output] = scene.size(output)
        owed[output] = nil
      }
      guard news.hasPicture else { continue }
      owed[output] = owed[output]?.union(news.damage) ?? news.damage
      shoot(output)
    }
  }

  func pullLate() { for output in owed.keys.sorted() { shoot(output) } }

  private func shoot(_ output: Int) {
    guard reel.count < room, let damage = owed[output],
      let frame = scene.frame(output, wishes), let (source, crop) = scene.pixels(output)
    else { return }
    owed[output] = nil
    var pixels = [UInt32](repeating: 0, count: Int(crop.width) * Int(crop.height))
    pixels.withUnsafeMutableBytes { bytes in
      if let base = bytes.baseAddress { source.copy(crop, to: base, stride: Int(crop.width) * 4) }
    }
    reel.append(Shot(frame: frame, pixels: pixels, damage: damage))
  }

  /// Lets the oldest shots go.
  func release(_ count: Int) {
    for shot in reel.prefix(count) { shot.frame.lock?.release() }
    reel.removeFirst(min(count, reel.count))
    leaving.removeAll { entry in
      guard !reel.contains(where: { $0.frame.buffer === entry.buffer }) else { return false }
      entry.lock.release()
      return true
    }
  }

  func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {
    revoked.append((buffer.id, reason))
    guard reel.contains(where: { $0.frame.buffer === buffer }) else { return }
    lock.retain()
    leaving.append((buffer, lock))
  }

  func expired(_ lock: Hold) { expired += 1 }

  func shows(_ buffer: OfferedBuffer) -> Bool { reel.contains { $0.frame.buffer === buffer } }

  func reviewLocks() { reviews += 1 }
}
