import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// A guest's flush and the GPUs that read its picture, with real fences of the kernel.
@Suite(
  .serialized,
  .enabled(
    if: access("/dev/udmabuf", R_OK | W_OK) == 0 && Vgem.isHere, "needs /dev/udmabuf and vgem"))
struct FenceReleaseTests {
  @Test func aFlushWaitsForTheFenceOfFrameDone() throws {
    let scene = try FenceScene(deadline: 8000)
    let consumer = try scene.consumer()
    let gpu = try FenceGPU()
    try scene.flush()
    try consumer.done(try scene.frame(consumer), fence: gpu.fence.raw)
    try scene.settle()
    #expect(scene.answered == 0)
    try gpu.finish()
    try scene.waitForAnswer(1)
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
    #expect(scene.pinhole.log.contains(", late 0,"), "\(scene.pinhole.log)")
  }

  @Test func aFlushWaitsForEveryConsumersFence() throws {
    let scene = try FenceScene(deadline: 8000)
    let consumers = [
      try scene.consumer(), try scene.consumer(), try scene.consumer(fences: false),
    ]
    let gpus = [try FenceGPU(), try FenceGPU()]
    // One that is let go takes its fence along.
    defer { withExtendedLifetime((consumers, gpus)) {} }
    try scene.flush()
    for (consumer, gpu) in zip(consumers, gpus) {
      try consumer.done(try scene.frame(consumer), fence: gpu.fence.raw)
    }
    try scene.settle()
    #expect(scene.answered == 0)
    try gpus[1].finish()
    try scene.settle()
    #expect(scene.answered == 0)
    try consumers[2].done(try scene.frame(consumers[2]))
    try scene.settle()
    #expect(scene.answered == 0)
    try gpus[0].finish()
    try scene.waitForAnswer(1)
  }

  @Test func implicitReadersAreWaitedForToo() throws {
    let scene = try FenceScene(deadline: 8000)
    let consumer = try scene.consumer(fences: false)
    let vgem = try Vgem()
    try scene.flush()
    let frame = try scene.frame(consumer)
    let buffer = try #require(consumer.buffers[frame.buffer])
    let reading = try vgem.attach(to: buffer.descriptor)
    try consumer.done(frame)
    try scene.settle()
    #expect(scene.answered == 0)
    try vgem.signal(reading)
    try scene.waitForAnswer(1)
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
    #expect(scene.pinhole.log.contains(", late 0,"), "\(scene.pinhole.log)")
  }

  @Test func whoPromisesToLeaveNoReadersIsBelievedButForItsDeath() throws {
    let scene = try FenceScene(deadline: 8000)
    let vgem = try Vgem()
    var consumer = Optional(try scene.consumer(fences: false, isExplicit: true))
    func show() throws -> UInt32 {
      let consumer = try #require(consumer)
      try scene.flush()
      let frame = try scene.frame(consumer)
      let reading = try vgem.attach(to: try #require(consumer.buffers[frame.buffer]).descriptor)
      if scene.answered == 0 { try consumer.done(frame) }
      return reading
    }
    let first = try show()
    try scene.waitForAnswer(1)
    try vgem.signal(first)
    let second = try show()
    consumer = nil
    try scene.settle()
    #expect(scene.answered == 1)
    try vgem.signal(second)
    try scene.waitForAnswer(2)
  }

  @Test(arguments: [true, false])
  func pastItsDeadlineAConsumerGetsCopies(_ isExplicit: Bool) throws {
    let scene = try FenceScene(deadline: 2500)
    let consumer = try scene.consumer(fences: isExplicit)
    let gpu = try FenceGPU()
    try scene.flush()
    let first = try scene.frame(consumer)
    let buffer = try #require(consumer.buffers[first.buffer])
    #expect(buffer.memory == .dmaBuf)
    var reading: UInt32 = 0
    if isExplicit {
      try consumer.done(first, fence: gpu.fence.raw)
    } else {
      reading = try gpu.vgem.attach(to: buffer.descriptor)
      try consumer.done(first)
    }
    try scene.waitForAnswer(1)
    // The GPU still reads: the guest is not kept waiting again.
    try scene.expectCopies(for: consumer, answers: 2...4)
    if isExplicit { try gpu.finish() } else { try gpu.vgem.signal(reading) }
    try scene.settle()
    try scene.flush()
    let last = try scene.frame(consumer)
    #expect(consumer.buffers[last.buffer]?.memory == .dmaBuf)
    try consumer.done(last)
    try scene.waitForAnswer(5)
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
    #expect(!scene.pinhole.log.contains(", late 0,"), "\(scene.pinhole.log)")
  }

  @Test func pagesAreNotReusedWhileAGPUReadsThem() throws {
    let scene = try FenceScene(deadline: 8000)
    let consumer = try scene.consumer()
    let gpu = try FenceGPU()
    try scene.flush()
    try consumer.done(try scene.frame(consumer), fence: gpu.fence.raw)
    var isDestroyed = false
    try scene.driver.send(.unref(1)) { _ in isDestroyed = true }
    try scene.driver.kick()
    // The library answers BUFFER_CLOSED.
    while let event = try consumer.next(timeout: 5000) {
      if case .bufferRemoved = event { break }
    }
    try scene.settle()
    #expect(!isDestroyed)
    try gpu.finish()
    try scene.driver.wait(for: "the answer to UNREF") { isDestroyed }
    try scene.waitForAnswer(1)
  }

  /// Nobody has the buffer any more, and a GPU reads the guest's own pages: UNREF is answered when it
  /// is done, or at the deadline. The flush had no fence, so that nothing else waits for it.
  @Test(arguments: [true, false])
  func destroyedPagesWaitForTheirImplicitReaders(_ isSignalled: Bool) throws {
    let scene = try FenceScene(deadline: isSignalled ? 8000 : 2500)
    let consumer = try scene.consumer(fences: false)
    let vgem = try Vgem()
    for command in scene.buffer.flushCommands() { try scene.driver.send(command) }
    try scene.driver.kick()
    let frame = try scene.frame(consumer)
    let buffer = try #require(consumer.buffers[frame.buffer])
    #expect(buffer.memory == .dmaBuf)
    let reading = try vgem.attach(to: buffer.descriptor)
    try consumer.done(frame)
    var isDestroyed = false
    try scene.driver.send(.unref(1)) { _ in isDestroyed = true }
    try scene.driver.kick()
    // The library answers BUFFER_CLOSED.
    while let event = try consumer.next(timeout: 5000) {
      if case .bufferRemoved = event { break }
    }
    try scene.settle()
    #expect(!isDestroyed)
    if isSignalled { try vgem.signal(reading) }
    try scene.driver.wait(for: "the answer to UNREF") { isDestroyed }
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
  }

  @Test func aConsumerThatLeavesTakesItsFenceAlong() throws {
    let scene = try FenceScene(deadline: 8000)
    var consumer: FrameConsumer? = try scene.consumer()
    let gpu = try FenceGPU()
    try scene.flush()
    if let consumer { try consumer.done(try scene.frame(consumer), fence: gpu.fence.raw) }
    try scene.settle()
    #expect(scene.answered == 0)
    consumer = nil
    try scene.waitForAnswer(1)
  }
}
