import FakeGuest
import Glibc
import Linux
import Pixels
import Scene
import Testing

@testable import VirtioGPU

/// Pictures that come when the guest is further on.
@Suite struct LatePicturesTests {
  private static let whole = Rect(width: 64, height: 32)

  /// Resource 1 is on the first output, and the renderer does nothing by itself.
  private func bench(eagerFirst: Bool = false) throws -> DeviceBench {
    let bench = try DeviceBench(with3D: true)
    for id: UInt32 in 1...2 { try bench.makePicture(id) }
    try bench.driver.perform(.setScanout(0, resource: 1, Self.whole))
    if eagerFirst { try bench.driver.perform(.flush(1, Self.whole)) }
    try bench.renderer { $0.isEager = false }
    return bench
  }

  /// The first byte of a picture, which says the how manieth it is.
  private func numbers(_ bench: DeviceBench) -> [UInt32] {
    bench.seen.frames.map { $0.picture[0, 0] & 0xff }
  }

  /// A guest that draws into one resource while the other one is read back shows a frame for each,
  /// also if it never pauses.
  @Test func aGuestThatFlipsAheadIsShown() throws {
    let bench = try bench()
    for flip in 1...20 {
      let id = UInt32(flip % 2) + 1
      try bench.driver.perform(.setScanout(0, resource: id, Self.whole))
      try bench.driver.perform(.flush(id, Self.whole))
      // The picture of the flip before.
      if flip > 1 { try bench.renderer { $0.finish(1) } }
      #expect(bench.seen.frames.count == flip - 1)
    }
    #expect(numbers(bench) == Array(1...19))
    #expect(
      bench.seen.frames.allSatisfy { $0.damage == Pixels.Rect(x: 0, y: 0, width: 64, height: 32) })
    try bench.renderer { $0.finish() }
    #expect(numbers(bench).last == 20)
  }

  /// A flush of a part is all of what was not on screen before.
  @Test func theFirstPictureAfterAFlipIsAllNew() throws {
    let bench = try bench(eagerFirst: true)
    let part = Rect(x: 8, y: 8, width: 4, height: 4)
    try bench.driver.perform(.flush(1, part))
    try bench.driver.perform(.setScanout(0, resource: 2, Self.whole))
    // Late: what is on screen is still the other resource's.
    try bench.renderer { $0.finish() }
    try bench.driver.perform(.flush(2, part))
    try bench.driver.perform(.flush(2, part))
    try bench.renderer { $0.finish() }
    let all = Pixels.Rect(x: 0, y: 0, width: 64, height: 32)
    #expect(
      bench.seen.frames.map(\.damage) == [
        all, all, all, Pixels.Rect(x: 8, y: 8, width: 4, height: 4),
      ])
    #expect(
      try bench.asked("show").suffix(2) == ["show 2 on 0 64x32 64x32", "show 2 on 0 64x32 4x4"])
  }

  @Test func picturesOfAnotherSizeOrOfNothingAreDropped() throws {
    let bench = try bench()
    let plain = try Framebuffer(bench.driver, resource: 9, width: 64, height: 32)
    plain.draw(TestPicture.smpte.render(width: 64, height: 32))
    let changes: [(GPUCommand, GPUCommand?)] = [
      (.setScanout(0, resource: 1, Rect(width: 32, height: 32)), nil),
      (.setScanout(0, resource: 0, Rect(width: 0, height: 0)), nil),
      // The guest draws itself, and back: the picture is older than what was on screen last.
      (
        .setScanout(0, resource: 9, Self.whole),
        .setScanout(0, resource: 2, Self.whole)
      ),
    ]
    for (change, back) in changes {
      try bench.driver.perform(.setScanout(0, resource: 1, Self.whole))
      try bench.driver.perform(.flush(1, Self.whole))
      try bench.driver.perform(change)
      if let back { try bench.driver.perform(back) }
      try bench.renderer { $0.finish() }
      #expect(bench.seen.frames.isEmpty, "\(change.name)")
    }
    try bench.renderer { #expect($0.released == 3) }
  }

  @Test func threePicturesAreOnTheirWayAndTheRestIsOne() throws {
    let bench = try bench(eagerFirst: true)
    for x: UInt32 in [0, 8, 16, 20, 24] {
      // Nobody waits for the picture.
      try bench.driver.perform(.flush(1, Rect(x: x, y: x, width: 4, height: 4)))
    }
    #expect(try bench.asked("show").count == 4)
    try bench.renderer { $0.finish() }
    #expect(
      try bench.asked().suffix(4)
        == Array(repeating: "show 1 on 0 64x32 4x4", count: 3) + ["show 1 on 0 64x32 8x8"])
    #expect(bench.seen.frames.count == 5)
    #expect(bench.seen.last?.damage == Pixels.Rect(x: 20, y: 20, width: 8, height: 8))
    // Each picture but the one on screen can be drawn into again.
    try bench.renderer { #expect($0.released == 4) }
  }

  /// A guest that draws in place, in two submissions a frame: each picture is asked for between its
  /// frame and the next one.
  @Test func picturesAreAskedForBeforeTheNextFrameIsDrawn() throws {
    let bench = try bench()
    for context in [GPUCommand.createContext(1)] { try bench.driver.send(context) }
    for _ in 0..<3 {
      for _ in 0..<2 { try bench.driver.send(.submit(1, [0, 0, 0, 0])) }
      try bench.driver.send(.flush(1, Self.whole))
    }
    try bench.driver.kick()
    let bound = Clock.now + 60_000_000_000
    while try bench.asked("show").count < 3, Clock.now < bound { usleep(1000) }
    let (submit, show) = ("submit 4 bytes in 1", "show 1 on 0 64x32 64x32")
    #expect(
      try bench.asked().suffix(9) == [
        submit, submit, show, submit, submit, show, submit, submit, show,
      ])
    try bench.renderer { $0.finish() }
    try bench.driver.drain()
  }

  /// What changed in a picture that did not come has changed in the next one.
  @Test func aPictureThatIsRefusedIsMadeUpFor() throws {
    let bench = try bench(eagerFirst: true)
    try bench.driver.perform(.flush(1, Rect(x: 0, y: 0, width: 4, height: 4)))
    try bench.renderer { renderer in
      renderer.refuses = true
      renderer.finish()
      renderer.refuses = false
    }
    #expect(bench.seen.frames.count == 1)
    try bench.driver.perform(.flush(1, Rect(x: 8, y: 8, width: 4, height: 4)))
    try bench.renderer { $0.finish() }
    #expect(bench.seen.last?.damage == Pixels.Rect(x: 0, y: 0, width: 12, height: 12))
  }

  /// A resource is destroyed with pictures on their way and another one owed, and its number is
  /// given again before: that is nothing to show.
  @Test func anotherResourceOfTheSameNumberIsNotShown() throws {
    let bench = try bench()
    for _ in 0..<4 { try bench.driver.perform(.flush(1, Self.whole)) }
    for command in [.unref(1), DeviceBench.picture(1, width: 8, height: 8)] {
      try bench.driver.send(command)
    }
    try bench.driver.kick()
    let bound = Clock.now + 60_000_000_000
    while try bench.asked().last != "resource 1 8x8", Clock.now < bound { usleep(1000) }
    try bench.renderer { $0.finish() }
    try bench.driver.drain()
    #expect(try bench.asked().suffix(2) == ["destroy 1", "resource 1 8x8"])
    #expect(try bench.asked("show").count == 3)
  }

  @Test func aResetAsksForNoPictureThatWasOwed() throws {
    let bench = try bench()
    for _ in 0..<4 { try bench.driver.perform(.flush(1, Self.whole)) }
    try bench.driver.restart()
    #expect(try bench.asked("show").count == 3)
  }
}
