import AllocationCounter
import Buffers
import FakeGuest
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
  /// Looks at every frame's pixels and keeps nothing.
  private final class Glance: DisplaySink {
    var wantsBuffers: Bool { false }
    private(set) var frames = 0
    func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {}
    func present(_ frame: Frame) { frames &+= 1 }
    func withdraw(
      _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
    ) { released() }
    func cursor(_ state: CursorState, imageChanged: Bool) {}
  }

  @Test(arguments: ScanoutMode.allCases)
  func flushingAllocatesNothing(_ mode: ScanoutMode) throws {
    let bench = try DeviceBench(mode: mode)
    let buffer = try Framebuffer(bench.driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    _ = try bench.inDevice { device, _ in device.sinks = [Glance()] }
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
