import AllocationCounter
import Buffers
import FakeGuest
import Fences
import Scene
import Testing

@testable import VirtioGPU

/// Without optimization closures and iterators are allocated.
private let isOptimized: Bool = {
  #if DEBUG
    return false
  #else
    return true
  #endif
}()

@Suite(
  .enabled(
    if: isOptimized && allocation_counter_works(), "needs a release build without a sanitizer"))
struct AllocationTests {
  /// Looks at every frame and keeps nothing.
  private final class Glance: Sink {
    private unowned let scene: Scene
    private(set) var frames = 0
    var wantsBuffers: Bool { false }
    init(_ scene: Scene) { self.scene = scene }
    func pull(_ changed: OutputSet) { if scene.pixels(0) != nil { frames &+= 1 } }
    func revoke(_ buffer: OfferedBuffer, _ reason: RevocationReason, _ lock: Hold) {}
  }

  @Test(arguments: ScanoutMode.allCases)
  func flushingAllocatesNothing(_ mode: ScanoutMode) throws {
    let bench = try DeviceBench(mode: mode)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    _ = try bench.inDevice { device, recorder in
      recorder.isForgetful = true
      device.scene.remove(recorder)
      device.scene.add(Glance(device.scene))
    }
    func allocations(frames: Int) throws -> UInt64 {
      let before = try bench.inDevice { _, _ in allocation_count() }
      for _ in 0..<frames { try buffer.flush() }
      return try bench.inDevice { _, _ in allocation_count() } - before
    }
    // The first frames fill pools; the question to the device's thread allocates too.
    _ = try allocations(frames: 20)
    let none = try allocations(frames: 0)
    #expect(try allocations(frames: 200) == none)
    #expect(try bench.inDevice { device, _ in device.counters.frames } >= 220)
  }
}
