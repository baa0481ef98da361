import Buffers
import Fences
import Glibc
import Linux
import Pixels
import Testing

@testable import Scene

/// A picture in memory that commits can show.
final class Canvas {
  let layout: PixelLayout
  private let memory: UnsafeMutableRawBufferPointer
  /// Passes for a dma-buf.
  let buffer: OfferedBuffer

  init(
    _ width: UInt32 = 8, _ height: UInt32 = 4, id: UInt32 = 1, generation: UInt32 = 1,
    fourcc: FourCC = .xrgb8888
  ) throws {
    layout = PixelLayout(width: width, height: height, stride: width * 4, fourcc: fourcc)
    memory = .allocate(byteCount: Int(layout.size), alignment: 16)
    buffer = OfferedBuffer(
      id: id, generation: generation, layout: layout, size: layout.size,
      fd: SharedFD(try OwnedFD.open("/dev/null", O_RDONLY)), memory: .guestPages)
    fill(0)
  }

  deinit { memory.deallocate() }

  func fill(_ value: UInt32) {
    for at in stride(from: 0, to: memory.count, by: 4) {
      memory.storeBytes(of: value, toByteOffset: at, as: UInt32.self)
    }
  }

  func commit(
    _ output: Int = 0, damage: Rect? = nil, direct: Bool = true, lock: Hold? = nil
  ) throws -> Commit {
    let whole = Rect(x: 0, y: 0, width: layout.width, height: layout.height)
    let source = PixelSource(
      layout: layout, spans: [HostSpan(base: try #require(memory.baseAddress), count: memory.count)]
    )
    return Commit(
      output: output, crop: whole, damage: damage ?? whole, pixels: try #require(source),
      owner: self, buffer: direct ? buffer : nil, lock: lock,
      whyCopied: direct ? nil : .redrawn)
  }
}

@Suite struct SceneTests {
  private let scene = Scene(maxCopies: 2)

  private func recorder(room: Int = 2) -> FilmRecorder {
    let recorder = FilmRecorder(scene, room: room)
    scene.add(recorder)
    return recorder
  }

  @Test func theGuestIsAnsweredWithTheLastUnlock() throws {
    let sinks = [recorder(), recorder()]
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    var answers = 0
    let lock = Hold { answers += 1 }
    scene.commit(try canvas.commit(lock: lock))
    scene.publish()
    lock.release()
    #expect(answers == 0)
    #expect(lock.readers == 2)
    for sink in sinks {
      #expect(answers == 0)
      #expect(sink.reel.first?.frame.buffer === canvas.buffer)
      sink.release(1)
    }
    #expect(answers == 1)
  }

  @Test func whoHasNoRoomHoldsNobodyAndGetsTheNewestWithAllDamage() throws {
    let sink = recorder(room: 1)
    let canvas = try Canvas()
    scene.resize(3, to: (8, 4))
    var answers = 0
    for number in 0..<4 as Range<UInt32> {
      canvas.fill(number)
      let lock = Hold { answers += 1 }
      let at = Rect(x: number, y: number, width: 1, height: 1)
      scene.commit(try canvas.commit(3, damage: at, lock: lock))
      scene.publish()
      lock.release()
    }
    #expect(answers == 3)
    #expect(sink.reel.count == 1)
    sink.release(1)
    #expect(answers == 4)
    var looks = 0
    scene.forEachLateBuffer { _ in looks += 1 }
    scene.finishTurn()
    #expect(looks == 1, "its pages are looked at before it goes out")
    #expect(sink.reel.map { $0.pixels[0] } == [3])
    #expect(sink.reel.first?.damage == Rect(x: 1, y: 1, width: 3, height: 3))
    #expect(sink.reel.first?.frame.lock == nil, "the guest was answered")
  }

  /// Readers with many different wishes cost the guest's flush two copies, not one each.
  @Test func wishesOfAllKindsAreTwoCopies() throws {
    let canvas = try Canvas(64, 32)
    scene.resize(0, to: (64, 32))
    var wishes: [Wishes] = []
    for stride in [4, 256, 512, 4096] as [UInt32] {
      for height in [1, 2, 64, 4096] as [UInt32] {
        var wish = Wishes()
        wish.alignment = CopyAlignment(stride: stride, height: height)
        wish.onlyCopies = .wanted
        wishes.append(wish)
      }
    }
    for round in 1...3 {
      scene.commit(try canvas.commit())
      let before = scene.counters.copies
      for wish in wishes {
        let frame = try #require(scene.frame(0, wish))
        #expect(wish.alignment.suits(frame.buffer))
        frame.lock?.release()
      }
      // The first time each greater wish has the copies of the lesser ones replaced.
      if round > 1 { #expect(scene.counters.copies - before == 2) }
    }
  }

  @Test func aRevokedBufferIsNotGivenToAnybody() throws {
    let early = recorder()
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    scene.commit(try canvas.commit())
    scene.publish()
    var released = 0
    scene.revoke(canvas.buffer, .discarded) { released += 1 }
    #expect(early.revoked.map(\.reason) == [.discarded])
    #expect(released == 0)
    let late = recorder()
    scene.finishTurn()
    let sight = scene.frame(0, Wishes())
    #expect(sight?.buffer.memory == .copy)
    sight?.lock?.release()
    #expect(!late.reel.contains { $0.frame.buffer === canvas.buffer })
    early.release(1)
    #expect(released == 1)
  }

  @Test func copiesAreSharedByThoseWithLikeWishesAndMadeOnce() throws {
    let sinks = [recorder(), recorder()]
    for sink in sinks { sink.wishes.onlyCopies = .wanted }
    let canvas = try Canvas()
    scene.resize(0, to: (8, 4))
    var answers = 0
    let lock = Hold { answers += 1 }
    scene.commit(try canvas.commit(lock: lock))
    scene.publish()
    lock.release()
    #expect(answers == 1, "nobody waits for readers of copies")
    let frames = sinks.compactMap(\.reel.first?.frame)
    #expect(frames.count == 2 && frames[0].buffer === frames[1].buffer)
    #expect(frames.allSatisfy { $0.whyCopied == .wanted && $0.buffer.memory == .copy })
    #expect(scene.counters.copies == 1)
    #expect(frames[0].buffer.lock.readers == 2)
  }

  @Test func anotherSizeOrFormatTakesCopiesBack() throws {
    let sink = recorder(room: 9)
    sink.wishes.onlyCopies = .wanted
    scene.resize(0, to: (8, 4))
    scene.commit(try Canvas().commit())
    scene.publish()
    scene.commit(try Canvas(fourcc: .xbgr8888).commit())
    scene.publish()
    #expect(sink.revoked.map(\.reason) == [.unused])
    scene.resize(0, to: (4, 4))
    scene.commit(try Canvas(4, 4).commit())
    scene.publish()
    #expect(sink.revoked.map(\.reason) == [.unused, .unused])
    #expect(sink.reel.map(\.pixels.count) == [32, 32, 16])
    // One of another size than its output's is nothing that could be shown.
    scene.commit(try Canvas(8, 4).commit())
    scene.publish()
    #expect(sink.reel.count == 3)
  }

  @Test func whyIsDecidedOnce() throws {
    let canvas = try Canvas()
    let direct = try canvas.commit()
    let copied = try canvas.commit(direct: false)
    func choice(_ commit: Commit, isDrawn: Bool = true, _ change: (inout Wishes) -> Void) -> Choice
    {
      var wishes = Wishes()
      change(&wishes)
      return Choice(commit, isDrawn: isDrawn, wishes)
    }
    #expect(choice(direct) { _ in } == .buffer)
    #expect(choice(direct) { $0.isLate = true } == .copy(.late))
    #expect(choice(direct) { $0.alignment = CopyAlignment(stride: 64) } == .copy(.alignment))
    #expect(choice(direct) { $0.onlyCopies = .untrusted } == .copy(.untrusted))
    #expect(choice(copied) { _ in } == .copy(.redrawn))
    #expect(choice(copied) { $0.isLate = true } == .copy(.redrawn))
    #expect(choice(copied) { $0.onlyCopies = .wanted } == .copy(.wanted))
    #expect(choice(direct, isDrawn: false) { _ in } == .later)
    #expect(choice(direct, isDrawn: false) { $0.takesFences = true } == .buffer)
    #expect(
      choice(direct, isDrawn: false) {
        $0.takesFences = true
        $0.isLate = true
      } == .later)
    #expect(
      choice(direct, isDrawn: false) {
        $0.takesFences = true
        $0.onlyCopies = .wanted
      } == .later)
  }
}
