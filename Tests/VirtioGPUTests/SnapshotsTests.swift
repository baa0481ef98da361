import Buffers
import FakeGuest
import Fences
import GPUCommands
import Glibc
import Pixels
import Scene
import Testing

@testable import VirtioGPU

/// The pictures of one resource beside plain ones: what is shown is one flushed frame, what is locked
/// stays as it is, and nothing that was transferred is lost.
@Suite struct SnapshotsTests {
  /// Rows of a picture that is just large enough for a file.
  private static let side: UInt32 = 512
  private static let whole = Rect(width: side, height: side)

  /// Memory of a picture's size.
  private final class Plain {
    let bytes = UnsafeMutableRawBufferPointer.allocate(
      byteCount: Int(side) * Int(side) * 4, alignment: 4096)

    init() { _ = bytes.initializeMemory(as: UInt8.self, repeating: 0) }
    deinit { bytes.deallocate() }

    var pixels: PixelSource? {
      guard let base = bytes.baseAddress else { return nil }
      return PixelSource(
        layout: PixelLayout(width: side, height: side, stride: side * 4, fourcc: .xrgb8888),
        spans: [HostSpan(base: base, count: bytes.count)])
    }

    func take(_ other: Plain) { bytes.copyMemory(from: UnsafeRawBufferPointer(other.bytes)) }

    func fill(_ rect: Rect, with value: UInt8) {
      guard let base = bytes.baseAddress else { return }
      for row in rect.y..<rect.y + rect.height {
        let at = (Int(row) * Int(side) + Int(rect.x)) * 4
        memset(base + at, CInt(value), Int(rect.width) * 4)
      }
    }

    func equals(_ other: UnsafeMutableRawPointer?) -> Bool {
      guard let base = bytes.baseAddress, let other else { return false }
      return memcmp(base, other, bytes.count) == 0
    }
  }

  /// A guest, the pictures, and what they have to be.
  private final class Model {
    var random: SeededRandom
    let budget: HostBudget
    var snapshots: Snapshots
    /// What was transferred.
    let written = Plain()
    /// What was flushed.
    let flushed = Plain()
    /// Pictures that somebody reads, and what they were when he began.
    var locked: [(still: StillPicture, contents: Plain)] = []
    var stills = 0
    var failures: [String] = []

    init(seed: UInt64, pictures: UInt64) {
      random = SeededRandom(seed: seed)
      budget = HostBudget(limit: pictures * UInt64(side) * UInt64(side) * 4)
      snapshots = Snapshots(budget)
      guard let share = budget.take(UInt64(side) * UInt64(side) * 4),
        let first = HostImage(width: side, height: side, fourcc: .xrgb8888, budget, share)
      else { return }
      snapshots.begin(with: first)
    }

    func rect() -> Rect {
      if random.next() % 4 == 0 { return whole }
      let x = UInt32(random.next() % UInt64(side))
      let y = UInt32(random.next() % UInt64(side))
      let width = random.next() % 3 == 0 ? side - x : 1 + UInt32(random.next() % UInt64(side - x))
      return Rect(
        x: x, y: y, width: width, height: 1 + UInt32(random.next() % UInt64(side - y)))
    }

    /// A transfer in one go, or in parts between which others look.
    func write(inParts: Bool) {
      let rect = rect()
      written.fill(rect, with: UInt8(truncatingIfNeeded: random.next()))
      guard let source = written.pixels else { return }
      var rows: UInt32 = 0
      while rows < rect.height {
        let rest = rect.dropping(rows: rows)
        do throws(GPUError) { try snapshots.prepare(rest) } catch {
          return failures.append("no picture can be written")
        }
        guard snapshots.catchUp(before: rest, bytes: inParts ? 100_000 : .max) else {
          look()
          continue
        }
        let part = rest.first(rows: inParts ? 50 : .max)
        snapshots.image?.copy(part, from: source)
        snapshots.wrote(part)
        rows += part.height
        look()
      }
    }

    func flush() {
      snapshots.hide()
      flushed.take(written)
      look()
      guard let still = snapshots.still() else { return }
      stills += 1
      if random.next() % 2 == 0 { lock(still) }
    }

    func lock(_ still: StillPicture) {
      if locked.contains(where: { $0.still !== still }) {
        failures.append("two pictures can be read at a time")
      }
      let contents = Plain()
      contents.take(flushed)
      still.hold.retain()
      locked.append((still, contents))
    }

    /// What a display sees that comes now.
    func look() {
      guard let shown = snapshots.show() else { return failures.append("nothing is shown") }
      shown.pixels.forEachPiece(offset: 0, count: flushed.bytes.count) { base, _ in
        if !flushed.equals(base) { failures.append("what is shown is no flushed frame") }
      }
      for (still, contents) in locked where !contents.equals(still.base) {
        failures.append("what is read has changed")
      }
    }

    func unlock() {
      guard !locked.isEmpty else { return }
      let (still, _) = locked.removeFirst()
      // Now and then a reader goes without a word.
      if random.next() % 8 == 0, locked.isEmpty { still.forsake() }
      still.hold.release()
    }

    func step() {
      switch random.next() % 10 {
      case 0...2: write(inParts: false)
      case 3: write(inParts: true)
      case 4...6: flush()
      case 7: if let still = snapshots.still() { lock(still) }
      case 8: unlock()
      default: if random.next() % 8 == 0 { snapshots.dropSpares() }
      }
      look()
    }
  }

  @Test("Whatever is drawn, flushed and read, in any order")
  func model() {
    let seed = UInt64.random(in: 0 ... .max)
    print("SnapshotsTests.model: seed \(seed)")
    let model = Model(seed: seed, pictures: 3)
    model.snapshots.hide()
    model.look()
    for _ in 0..<600 where model.failures.isEmpty { model.step() }
    #expect(model.failures == [], "seed \(seed)")
    #expect(model.stills > 10)
    let used = model.budget.used
    model.snapshots.removeAll()
    model.locked = []
    #expect(used <= model.budget.limit && model.budget.used == 0, "seed \(seed)")
  }

  @Test("Without memory for a second picture none is read by reference")
  func onePicture() throws {
    let model = Model(seed: 1, pictures: 1)
    for _ in 0..<5 {
      try model.snapshots.prepare(Self.whole)
      model.snapshots.hide()
      #expect(model.snapshots.show() === model.snapshots.image)
      #expect(model.snapshots.still() == nil)
    }
  }

  @Test("A picture that may be read by reference is not when it is written after all")
  func takenBack() throws {
    let model = Model(seed: 1, pictures: 3)
    for _ in 0..<2 {
      try model.snapshots.prepare(Self.whole)
      model.snapshots.hide()
      _ = model.snapshots.show()
    }
    let still = try #require(model.snapshots.still())
    #expect(still.isStill)
    model.snapshots.dropSpares()
    #expect(!still.isStill)
  }

  @Test("There is an end to descriptors")
  func files() {
    let budget = HostBudget(limit: .max)
    func image() -> HostImage? {
      budget.take(1 << 20).flatMap {
        HostImage(width: Self.side, height: Self.side, fourcc: .xrgb8888, budget, $0)
      }
    }
    var images = (0..<HostBudget.mostFiles + 3).compactMap { _ in image() }
    #expect(images.count { $0.still != nil } == HostBudget.mostFiles)
    #expect(images.count { $0.still == nil } == 3)
    // One that goes makes room for one.
    images.removeFirst()
    for isFile in [true, false] {
      let next = image()
      #expect((next?.still != nil) == isFile)
      if let next { images.append(next) }
    }
  }
}
