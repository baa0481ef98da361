import Buffers
import Fences
import Linux
import Pixels
import Testing

@testable import Scene

/// Several displays, outputs, commits and wishes: none is forgotten for the first or the last one.
@Suite struct SeveralTests {
  private let scene = Scene(maxCopies: 2)

  private func recorders(_ count: Int, room: Int = 2) -> [FilmRecorder] {
    (0..<count).map { _ in
      let recorder = FilmRecorder(scene, room: room)
      scene.add(recorder)
      return recorder
    }
  }

  private func copies(stride: UInt32 = 0, height: UInt32 = 0) -> Wishes {
    var wishes = Wishes()
    wishes.onlyCopies = .wanted
    wishes.alignment = CopyAlignment(stride: stride, height: height)
    return wishes
  }

  @Test func aBufferOnTwoOutputsIsTakenFromAllDisplaysOnBoth() throws {
    let sinks = recorders(3)
    let canvas = try Canvas()
    for output in 0...1 {
      scene.resize(output, to: (8, 4))
      scene.commit(try canvas.commit(output))
    }
    scene.publish()
    #expect(sinks.allSatisfy { $0.reel.count == 2 })
    var released = 0
    scene.revoke(canvas.buffer, .discarded) { released += 1 }
    for sink in sinks { #expect(sink.revoked.map(\.id) == [canvas.buffer.id]) }
    for output in 0...1 {
      let frame = try #require(scene.frame(output, Wishes()))
      #expect(frame.buffer.memory == .copy, "output \(output)")
      frame.lock?.release()
    }
    for sink in sinks {
      #expect(released == 0, "all have to let go")
      sink.release(2)
    }
    #expect(released == 1)
  }

  @Test func allDisplaysHearOfADeadlineAndAreAskedForLocks() throws {
    let sinks = recorders(3)
    scene.expire(Hold())
    scene.reviewLocks()
    scene.reviewLocks()
    #expect(sinks.map(\.expired) == [1, 1, 1])
    #expect(sinks.map(\.reviews) == [2, 2, 2])
    scene.remove(sinks[1])
    scene.expire(Hold())
    #expect(sinks.map(\.expired) == [2, 1, 2], "the one that left, and no other")
  }

  @Test func oneDisplayOfManyIsEnough() throws {
    let sinks = recorders(3)
    for sink in sinks { sink.wantsBuffers = false }
    #expect(!scene.wantsBuffers)
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    scene.commit(try canvas.commit())
    scene.publish()
    for (at, sink) in sinks.enumerated() {
      sink.wantsBuffers = true
      #expect(scene.wantsBuffers)
      sink.wantsBuffers = false
      for other in sinks where other !== sink { other.release(1) }
      #expect(scene.isSeen(canvas.buffer), "display \(at) has it on screen")
      sink.release(1)
      #expect(!scene.isSeen(canvas.buffer))
      scene.commit(try canvas.commit())
      scene.publish()
    }
  }

  @Test(arguments: 0..<3) func lateFramesOfAnyDisplayAreLookedAt(_ late: Int) throws {
    let sinks = (0..<3).map { FilmRecorder(scene, room: $0 == late ? 1 : 9) }
    for sink in sinks { scene.add(sink) }
    for output in 0...1 {
      scene.resize(output, to: (8, 4))
      scene.commit(try Canvas(id: UInt32(output)).commit(output))
      scene.publish()
    }
    #expect(sinks[late].reel.count == 1)
    sinks[late].release(1)
    var looked: [UInt32] = []
    scene.forEachLateBuffer { looked.append($0.id) }
    #expect(looked == [1])
    scene.finishTurn()
    #expect(sinks[late].reel.map(\.frame.output) == [1])
  }

  @Test func twoPicturesBeforeThePublishAreOneWithAllThatChanged() throws {
    let sink = recorders(1)[0]
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    scene.commit(try canvas.commit(damage: Rect(x: 1, y: 1, width: 1, height: 1)))
    canvas.fill(7)
    scene.commit(try canvas.commit(damage: Rect(x: 5, y: 2, width: 2, height: 2)))
    scene.publish()
    #expect(sink.reel.map(\.damage) == [Rect(x: 1, y: 1, width: 6, height: 3)])
    #expect(sink.reel.map { $0.pixels[0] } == [7])
    // It is not told twice.
    scene.commit(try canvas.commit(damage: Rect(x: 0, y: 0, width: 1, height: 1)))
    scene.publish()
    #expect(sink.reel.last?.damage == Rect(x: 0, y: 0, width: 1, height: 1))
  }

  @Test func anOutputOfAnotherSizeShowsNothingYet() throws {
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    scene.commit(try canvas.commit())
    #expect(scene.hasPicture(0))
    for size in [(4, 4), nil] as [(UInt32, UInt32)?] {
      scene.resize(0, to: size)
      #expect(!scene.hasPicture(0) && scene.pixels(0) == nil)
      #expect(scene.frame(0, Wishes()) == nil && scene.frame(0, copies()) == nil)
    }
  }

  /// Consumers tell by it how old a picture is.
  @Test func aFrameSaysWhenItWasCommittedWheneverItIsTaken() throws {
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    for _ in 0..<2 {
      let before = Clock.now
      scene.commit(try canvas.commit())
      let after = Clock.now
      let frames = [Wishes(), copies(), Wishes(), copies()].compactMap { scene.frame(0, $0) }
      #expect(frames.count == 4)
      for frame in frames {
        #expect(frame.timestamp >= before && frame.timestamp <= after)
        frame.lock?.release()
      }
    }
  }

  @Test func copiesInWhosePlaceOthersComeAreTakenBack() throws {
    let sink = recorders(1)[0]
    sink.wantsBuffers = false
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    scene.commit(try canvas.commit())
    let usual = try #require(scene.frame(0, copies()))
    let wide = try #require(scene.frame(0, copies(stride: 4096)))
    #expect(sink.revoked.isEmpty)
    // What suits both comes in the place of the second; the usual ones stay.
    let both = try #require(scene.frame(0, copies(height: 64)))
    #expect(sink.revoked.map(\.id) == [wide.buffer.id] && sink.revoked.map(\.reason) == [.unused])
    let first = scene.copies(of: 0, copies()).map(\.id)
    let second = scene.copies(of: 0, copies(stride: 4096)).map(\.id)
    #expect(first.contains(usual.buffer.id) && second.contains(both.buffer.id))
    scene.dropCopies(of: 0, .reset)
    #expect(Set(sink.revoked.dropFirst().map(\.id)) == Set(first + second))
    for frame in [usual, wide, both] { frame.lock?.release() }
  }

  @Test func whatCopiesCostIsCounted() throws {
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    var held: [Frame] = []
    for _ in 0..<3 {
      scene.commit(try canvas.commit())
      // The second to ask for the same gets the same.
      for _ in 0..<2 { if let frame = scene.frame(0, copies()) { held.append(frame) } }
    }
    #expect(held.count == 4)
    #expect(scene.counters.copies == 2 && scene.counters.copiesBusy == 2)
    #expect(scene.counters.copiedBytes == 2 * 8 * 4 * 4)
    for frame in held { frame.lock?.release() }
  }

  /// What is elsewhere now may be written in the file where it was.
  @Test func aPictureThatMovesIsNotReadInItsOldFile() throws {
    let canvas = try Canvas()
    let other = try Canvas(id: 2)
    other.fill(9)
    scene.resize(0, to: (8, 4))
    var commit = try canvas.commit(direct: false)
    let file = SharedFD(try MemFD.create("still", size: 4096))
    let mapping = try Mapping(fd: file.raw, offset: 0, count: 4096, writable: true)
    commit.still = StillPicture(file, mapping, stride: 32)
    scene.commit(commit)
    #expect(scene.commit(of: 0)?.still != nil)
    let moved = try other.commit()
    scene.repoint(0, to: moved.pixels, owner: other)
    let now = try #require(scene.commit(of: 0))
    #expect(now.still == nil && now.owner === other)
    var pixel: UInt32 = 0
    withUnsafeMutableBytes(of: &pixel) { bytes in
      if let base = bytes.baseAddress {
        now.pixels.copy(Rect(width: 1, height: 1), to: base, stride: 4)
      }
    }
    #expect(pixel == 9)
  }
}
