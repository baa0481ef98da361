import FakeGuest
import Pixels
import Scene
import Testing

@testable import VirtioGPU

/// Consumers that keep what the renderer drew.
@Suite struct HeldPicturesTests {
  /// However many are kept: there are copies after four, and pictures again once these are back.
  @Test func holdersCannotKeepAllPictures() throws {
    let bench = try DeviceBench(with3D: true, udmabuf: true)
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = true
    }
    try bench.makePicture(1)
    let whole = Rect(width: 64, height: 32)
    try bench.driver.perform(.setScanout(0, resource: 1, whole))
    for _ in 0..<6 { try bench.driver.perform(.flush(1, whole)) }
    #expect(
      bench.seen.frames.map(\.memory)
        == Array(repeating: "rendered", count: 4) + Array(repeating: "copy", count: 2))
    #expect(bench.seen.last?.why == .late)
    // Every picture is the right one, copied or not.
    #expect(bench.seen.frames.map { $0.picture[0, 0] & 0xff } == Array(1...6))
    _ = try bench.inDevice { _, recorder in recorder.releaseAll() }
    try bench.driver.perform(.flush(1, whole))
    #expect(bench.seen.last?.memory == "rendered" && bench.seen.last?.why == nil)
  }

  /// One that keeps two costs the others nothing.
  @Test func twoThatAreKeptCostNobodyHisPictures() throws {
    let bench = try DeviceBench(with3D: true, udmabuf: true)
    try bench.makePicture(1)
    let whole = Rect(width: 64, height: 32)
    try bench.driver.perform(.setScanout(0, resource: 1, whole))
    _ = try bench.inDevice { _, recorder in
      recorder.wantsBuffers = true
      recorder.holds = true
    }
    for _ in 0..<2 { try bench.driver.perform(.flush(1, whole)) }
    _ = try bench.inDevice { _, recorder in recorder.holds = false }
    for _ in 0..<8 { try bench.driver.perform(.flush(1, whole)) }
    #expect(bench.seen.frames.count == 10)
    #expect(bench.seen.frames.allSatisfy { $0.memory == "rendered" })
  }

  /// An output that is off keeps no memory of what was on it.
  @Test func whatIsNotShownAnyMoreIsLetGo() throws {
    let bench = try DeviceBench(with3D: true)
    try bench.makePicture(1)
    let whole = Rect(width: 64, height: 32)
    try bench.driver.perform(.setScanout(0, resource: 1, whole))
    for _ in 0..<3 { try bench.driver.perform(.flush(1, whole)) }
    try bench.renderer { #expect($0.released == 2 && $0.picturesAlive == 1) }
    try bench.driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    try bench.renderer { renderer in
      renderer.forgetNewest()
      #expect(renderer.released == 3 && renderer.picturesAlive == 0)
    }
  }
}
