import Buffers
import Fences
import Glibc
import Testing

@testable import Scene

/// A scene and a plain reference do the same a great many times.
///
/// `PINHOLE_SCENE_STEPS` sets how often, `PINHOLE_SEED` what.
@Suite struct ModelTests {
  private static let outputs = 3

  /// What must be so, in the simplest words.
  private struct Model {
    struct Output {
      var size: (width: UInt32, height: UInt32)?
      /// What was flushed last, nil while that may not be shown.
      var value: UInt32?
      var canvas: Canvas?
      /// It may be shown as it is.
      var isDirect = false
      var flush: Int?
    }
    var outputs = [Output](repeating: Output(), count: ModelTests.outputs)
    /// Frames of each flush that somebody holds.
    var held: [Int: Int] = [:]
    var answered: Set<Int> = []
    var revoked: Set<ObjectIdentifier> = []
  }

  private final class Viewer {
    let film: FilmRecorder
    /// What its shots are of, oldest first.
    var expected: [(output: Int, value: UInt32, flush: Int?)] = []
    var owes: [Bool]
    init(_ scene: Scene, room: Int) {
      film = FilmRecorder(scene, room: room)
      owes = [Bool](repeating: false, count: ModelTests.outputs)
    }
  }

  @Test func aSceneDoesAsAPlainReference() throws {
    let environment = getenv("PINHOLE_SCENE_STEPS").flatMap { Int(String(cString: $0)) }
    let seed =
      getenv("PINHOLE_SEED").flatMap { UInt64(String(cString: $0)) } ?? .random(in: 0 ... .max)
    print("aSceneDoesAsAPlainReference: seed \(seed)")
    var run = Run(seed: seed)
    for step in 0..<(environment ?? 20_000) {
      try run.step()
      if let fault = run.fault {
        Issue.record("seed \(seed), step \(step): \(fault)")
        return
      }
    }
    try run.finish()
    #expect(run.fault == nil, "seed \(seed)")
    #expect(run.shots > 100 && run.copies > 10 && run.late > 10, "it has to happen at all")
  }

  private struct Random: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return state ^ state >> 29
    }
  }

  private struct Run {
    let scene = Scene(maxCopies: 3)
    var model = Model()
    var viewers: [Viewer] = []
    var random: Random
    var flushes = 0
    var value: UInt32 = 0
    var nextID: UInt32 = 0
    var answers: [Int: Int] = [:]
    var locks: [Int: Hold] = [:]
    var revocations = 0
    var released = 0
    var fault: String?
    var shots = 0, copies = 0, late = 0

    init(seed: UInt64) { random = Random(state: seed) }

    mutating func pick(_ count: Int) -> Int { Int.random(in: 0..<count, using: &random) }

    mutating func step() throws {
      let output = pick(ModelTests.outputs)
      switch pick(20) {
      case 0..<8: try commit(output)
      case 8..<12: unlock()
      case 12: resize(output)
      case 13: try replace(output)
      case 14: revoke(output)
      case 15: reset()
      case 16: connect()
      case 17: disconnect()
      case 18: expire()
      default: turn()
      }
      check()
    }

    private mutating func size() -> (width: UInt32, height: UInt32) {
      (UInt32(pick(3) + 1), UInt32(pick(2) + 1))
    }

    private mutating func resize(_ output: Int) {
      let size = pick(3) == 0 ? nil : size()
      scene.resize(output, to: size)
      model.outputs[output] = .init(size: size)
      publish([output])
    }

    /// The guest shows another resource, which it has not drawn yet.
    private mutating func replace(_ output: Int) throws {
      guard model.outputs[output].size != nil else { return }
      scene.invalidate(output)
      model.outputs[output].value = nil
      model.outputs[output].canvas = nil
    }

    private mutating func commit(_ output: Int) throws {
      guard let size = model.outputs[output].size else { return }
      if model.outputs[output].canvas == nil {
        nextID += 1
        model.outputs[output].canvas = try Canvas(size.width, size.height, id: nextID)
      }
      guard let canvas = model.outputs[output].canvas else { return }
      value += 1
      canvas.fill(value)
      let isDirect = pick(4) > 0 && !model.revoked.contains(ObjectIdentifier(canvas))
      var lock: Hold?
      var flush: Int?
      if pick(3) > 0 {
        flushes += 1
        let number = flushes
        let box = Answers.shared
        box.counts[number] = 0
        lock = Hold { box.counts[number, default: 0] += 1 }
        locks[number] = lock
        flush = number
      }
      scene.commit(try canvas.commit(output, direct: isDirect, lock: lock))
      model.outputs[output].value = value
      model.outputs[output].isDirect = isDirect
      model.outputs[output].flush = flush
      if let flush { model.held[flush] = 0 }
      publish([output])
      lock?.release()
    }

    /// Each viewer with room has the newest picture then, the others owe it.
    private mutating func publish(_ outputs: [Int]) {
      let before = viewers.map(\.film.reel.count)
      scene.publish()
      for (at, viewer) in viewers.enumerated() {
        for output in outputs {
          viewer.owes[output] = model.outputs[output].value != nil
        }
        took(viewer, before[at], outputs)
      }
    }

    /// Compares the shots that a viewer took with what it should have taken.
    private mutating func took(_ viewer: Viewer, _ before: Int, _ outputs: [Int]) {
      var count = before
      for output in outputs.sorted() where viewer.owes[output] {
        guard let value = model.outputs[output].value, count < viewer.film.room else { continue }
        guard viewer.film.reel.count > count else {
          // All copies are held: only then it gets nothing.
          if model.outputs[output].isDirect, viewer.film.wishes.onlyCopies == nil {
            fault = "a viewer with room did not get the newest picture of \(output)"
          }
          continue
        }
        let shot = viewer.film.reel[count]
        guard shot.frame.output == output else { continue }
        count += 1
        viewer.owes[output] = false
        shots += 1
        if shot.pixels.contains(where: { $0 != value }) { fault = "an old picture was pulled" }
        let isCopy = shot.frame.buffer.memory == .copy
        if isCopy { copies += 1 }
        let mayBeDirect = model.outputs[output].isDirect && viewer.film.wishes.onlyCopies == nil
        if isCopy == mayBeDirect { fault = "direct is \(mayBeDirect), the memory is not" }
        let canvas = model.outputs[output].canvas
        if !isCopy, shot.frame.buffer !== canvas?.buffer { fault = "another buffer" }
        var flush = isCopy ? nil : model.outputs[output].flush
        if let number = flush, model.answered.contains(number) { flush = nil }
        if !isCopy, (shot.frame.lock != nil) != (flush != nil) { fault = "the lock is wrong" }
        if let flush { model.held[flush, default: 0] += 1 }
        viewer.expected.append((output, value, flush))
      }
      if viewer.film.reel.count != count { fault = "a viewer has a frame that was not committed" }
    }

    private mutating func unlock() {
      guard !viewers.isEmpty else { return }
      let viewer = viewers[pick(viewers.count)]
      let count = min(pick(3), viewer.film.reel.count)
      for shot in viewer.film.reel.prefix(count) where shot.frame.buffer.memory == .copy {
        if shot.frame.buffer.lock.readers == 0 { fault = "a copy that is held is not locked" }
      }
      letGo(viewer, count)
      viewer.film.release(count)
    }

    private mutating func letGo(_ viewer: Viewer, _ count: Int) {
      for shot in viewer.expected.prefix(count) {
        if let flush = shot.flush { model.held[flush, default: 0] -= 1 }
      }
      viewer.expected.removeFirst(count)
    }

    private mutating func turn() {
      let before = viewers.map(\.film.reel.count)
      scene.finishTurn()
      for (at, viewer) in viewers.enumerated() {
        late += viewer.film.reel.count - before[at]
        took(viewer, before[at], Array(0..<ModelTests.outputs))
      }
    }

    private mutating func revoke(_ output: Int) {
      guard let canvas = model.outputs[output].canvas else { return }
      revocations += 1
      let box = Answers.shared
      scene.revoke(canvas.buffer, .discarded) { box.released += 1 }
      model.revoked.insert(ObjectIdentifier(canvas))
      for other in model.outputs.indices where model.outputs[other].canvas === canvas {
        model.outputs[other].isDirect = false
        if pick(2) == 0 { model.outputs[other].canvas = nil }
        if model.outputs[other].canvas == nil { scene.invalidate(other) }
        if model.outputs[other].canvas == nil { model.outputs[other].value = nil }
      }
    }

    private mutating func reset() {
      for output in model.outputs.indices {
        scene.dropCopies(of: output, .reset)
        if let canvas = model.outputs[output].canvas {
          let box = Answers.shared
          revocations += 1
          scene.revoke(canvas.buffer, .reset) { box.released += 1 }
        }
        scene.resize(output, to: nil)
        model.outputs[output] = .init()
      }
      publish(Array(model.outputs.indices))
    }

    private mutating func connect() {
      guard viewers.count < 4 else { return }
      let viewer = Viewer(scene, room: pick(3) + 1)
      if pick(3) == 0 { viewer.film.wishes.onlyCopies = .wanted }
      viewers.append(viewer)
      scene.add(viewer.film)
    }

    private mutating func disconnect() {
      guard !viewers.isEmpty else { return }
      let viewer = viewers.remove(at: pick(viewers.count))
      scene.remove(viewer.film)
      letGo(viewer, viewer.film.reel.count)
      viewer.film.release(.max)
    }

    /// The guest does not wait any longer.
    private mutating func expire() {
      guard let number = locks.keys.min(), let lock = locks[number] else { return }
      lock.expire()
      scene.expire(lock)
      model.answered.insert(number)
    }

    private mutating func check() {
      let box = Answers.shared
      for (number, count) in model.held {
        let isDue = count == 0 || model.answered.contains(number)
        if box.counts[number] != (isDue ? 1 : 0) {
          fault = "flush \(number) was answered \(box.counts[number] ?? -1) times, held \(count)"
        }
        if isDue {
          model.answered.insert(number)
          locks[number] = nil
        }
      }
      for number in model.answered where model.held[number] == 0 {
        model.held[number] = nil
        model.answered.remove(number)
        box.counts[number] = nil
        for output in model.outputs.indices where model.outputs[output].flush == number {
          model.outputs[output].flush = nil
        }
      }
      if box.released > revocations { fault = "a revocation was answered twice" }
    }

    mutating func finish() throws {
      while !viewers.isEmpty { disconnect() }
      check()
      if !model.held.isEmpty { fault = "\(model.held.count) flushes were never answered" }
      if Answers.shared.released != revocations { fault = "a revocation was never answered" }
    }
  }

  /// What locks let go; one test at a time uses it.
  private final class Answers {
    nonisolated(unsafe) static let shared = Answers()
    var counts: [Int: Int] = [:]
    var released = 0
  }
}
