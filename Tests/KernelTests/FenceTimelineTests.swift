import Conformance
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// A guest's flush and the points of drm_syncobj timelines that consumers bring, with a real
/// driver's node and pinhole in its sandbox.
@Suite(
  .serialized,
  .enabled(
    if: access("/dev/udmabuf", R_OK | W_OK) == 0 && FakeTimeline.path != nil,
    "needs /dev/udmabuf and a DRM node with timelines, such as virtio-gpu's"))
struct FenceTimelineTests {
  private func consumer(
    _ scene: FenceScene, _ timeline: FakeTimeline
  ) throws -> FrameConsumer {
    let consumer = try scene.consumer(fences: false, timelines: true)
    #expect(consumer.mayUseTimelines)
    try consumer.addTimeline(
      output: 0, syncobj: timeline.descriptor.raw, node: timeline.node.raw)
    return consumer
  }

  private func end(_ scene: FenceScene, late: Int = 0, fences: Int) {
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
    let log = scene.pinhole.log
    #expect(log.contains(", late \(late),"), "\(log)")
    #expect(log.contains(", fences \(fences)"), "\(log)")
  }

  @Test func aFlushWaitsForAPointThatHasNoFenceYet() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    try scene.flush()
    try consumer.done(try scene.frame(consumer), point: 7)
    try scene.settle()
    #expect(scene.answered == 0)
    try timeline.signal(6)
    try scene.settle()
    #expect(scene.answered == 0, "another point is not this one")
    try timeline.signal(7)
    try scene.waitForAnswer(1)
    withExtendedLifetime(consumer) {}
    end(scene, fences: 1)
  }

  @Test(.enabled(if: Vgem.isHere, "needs vgem"))
  func workIsSubmittedAfterFrameDone() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    let gpu = try FenceGPU()
    try scene.flush()
    try consumer.done(try scene.frame(consumer), point: 1)
    try scene.settle()
    try timeline.submit(gpu.fence.raw, as: 1)
    try scene.settle()
    #expect(scene.answered == 0, "the GPU still reads")
    try gpu.finish()
    try scene.waitForAnswer(1)
    withExtendedLifetime(consumer) {}
    end(scene, fences: 1)
  }

  @Test func aPointThatHasSignalledIsNotWaitedFor() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    try timeline.signal(UInt64.max)
    for (number, point) in [(1, 1), (2, UInt64.max)] as [(Int, UInt64)] {
      try scene.flush()
      try consumer.done(try scene.frame(consumer), point: point)
      try scene.waitForAnswer(number)
    }
    end(scene, fences: 0)
  }

  @Test func aLaterPointReleasesEarlierFrames() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    for point in [1, 2] as [UInt64] {
      try scene.flush()
      try consumer.done(try scene.frame(consumer), point: point)
    }
    // The younger fence ends the wait for the older frame, whose reader is late then.
    try scene.waitForAnswer(1)
    try scene.settle()
    #expect(scene.answered == 1)
    try timeline.signal(2)
    try scene.waitForAnswer(2)
    end(scene, late: 1, fences: 2)
  }

  @Test func eachConsumerAndOutputHasItsOwnTimeline() throws {
    let scene = try FenceScene(deadline: 8000)
    let timelines = [try FakeTimeline(), try FakeTimeline()]
    let consumers = try timelines.map { try consumer(scene, $0) }
    // Another output's is no matter.
    try consumers[0].addTimeline(
      output: 15, syncobj: timelines[1].descriptor.raw, node: timelines[1].node.raw)
    try scene.flush()
    for consumer in consumers { try consumer.done(try scene.frame(consumer), point: 1) }
    try scene.settle()
    try timelines[1].signal(1)
    try scene.settle()
    #expect(scene.answered == 0)
    try timelines[0].signal(1)
    try scene.waitForAnswer(1)
    withExtendedLifetime(consumers) {}
    end(scene, fences: 2)
  }

  @Test func aRemovedTimelinesPointsStillCount() throws {
    let scene = try FenceScene(deadline: 8000)
    let timelines = [try FakeTimeline(), try FakeTimeline()]
    let consumer = try consumer(scene, timelines[0])
    try scene.flush()
    try consumer.done(try scene.frame(consumer), point: 1)
    try consumer.removeTimeline(output: 0)
    try consumer.addTimeline(
      output: 0, syncobj: timelines[1].descriptor.raw, node: timelines[1].node.raw)
    try timelines[1].signal(1)
    try scene.settle()
    #expect(scene.answered == 0)
    try timelines[0].signal(1)
    try scene.waitForAnswer(1)
    try scene.flush()
    try consumer.done(try scene.frame(consumer), point: 1)
    try scene.waitForAnswer(2)
    end(scene, fences: 1)
  }

  @Test func aConsumerThatLeavesTakesItsPointsAlong() throws {
    let scene = try FenceScene(deadline: 8000)
    try scene.settle()
    let before = scene.pinhole.descriptorCount
    let timeline = try FakeTimeline()
    var consumer: FrameConsumer? = try consumer(scene, timeline)
    try scene.flush()
    if let consumer { try consumer.done(try scene.frame(consumer), point: 1) }
    try scene.settle()
    #expect(scene.answered == 0)
    consumer = nil
    try scene.waitForAnswer(1)
    // Neither the node nor what waited for the point is left; the buffer's memory may be.
    #expect(scene.pinhole.descriptorCount <= before + 1)
    withExtendedLifetime(timeline) {}
  }

  @Test func pastItsDeadlineAConsumerGetsCopies() throws {
    let scene = try FenceScene(deadline: 2500)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    try scene.flush()
    let first = try scene.frame(consumer)
    #expect(consumer.buffers[first.buffer]?.memory == .dmaBuf)
    try consumer.done(first, point: 1)
    try scene.waitForAnswer(1)
    try scene.expectCopies(for: consumer, answers: 2...4)
    try timeline.signal(1)
    try scene.settle()
    try scene.flush()
    let last = try scene.frame(consumer)
    #expect(consumer.buffers[last.buffer]?.memory == .dmaBuf)
    try consumer.done(last)
    try scene.waitForAnswer(5)
    end(scene, late: 1, fences: 1)
  }

  // MARK: Mistakes

  private func whyRefused(_ consumer: FrameConsumer) -> FramesError.Refusal? {
    do {
      while try consumer.next(timeout: 5000) != nil {}
    } catch .refused(let refusal) { return refusal } catch {}
    return nil
  }

  @Test func whatIsNoTimelineIsRefusedByName() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let null = SharedFD(try OwnedFD.open("/dev/null", O_RDWR))
    // Descriptors of the message, and the field that is named.
    let mistakes: [(syncobj: CInt, node: CInt, field: UInt32, text: String)] = [
      (timeline.descriptor.raw, null.raw, 20, "no DRM node"),
      (timeline.node.raw, timeline.descriptor.raw, 20, "no DRM node"),
      (null.raw, timeline.node.raw, 16, "no drm_syncobj"),
      (timeline.node.raw, timeline.node.raw, 16, "no drm_syncobj"),
    ]
    for mistake in mistakes {
      let consumer = try scene.consumer(timelines: true)
      try consumer.addTimeline(output: 0, syncobj: mistake.syncobj, node: mistake.node)
      let refusal = try #require(whyRefused(consumer))
      #expect(refusal.code == 2 && refusal.messageType == 4, "\(refusal)")
      #expect(refusal.field == mistake.field, "\(refusal)")
      #expect(refusal.text.contains(mistake.text), "\(refusal)")
    }
    withExtendedLifetime((timeline, null)) {}
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
  }

  @Test(.enabled(if: Vgem.isHere, "needs vgem"))
  func aNodeWithoutTimelinesIsRefused() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let vgem = try Vgem()
    #expect(!FrameConsumer.hasTimelines(node: vgem.descriptor))
    let consumer = try scene.consumer(timelines: true)
    try consumer.addTimeline(
      output: 0, syncobj: timeline.descriptor.raw, node: vgem.descriptor)
    let refusal = try #require(whyRefused(consumer))
    #expect(refusal.code == 8 && refusal.field == 20, "\(refusal)")
    withExtendedLifetime((timeline, vgem)) {}
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
  }

  @Test func anOutputHasOneTimelineAtATime() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    try consumer.addTimeline(
      output: 0, syncobj: timeline.descriptor.raw, node: timeline.node.raw)
    let refusal = try #require(whyRefused(consumer))
    #expect(refusal.code == 3 && refusal.field == 8, "\(refusal)")
    withExtendedLifetime(timeline) {}
  }

  @Test func aNodeThatItsOwnerBrokeIsNoticed() throws {
    let scene = try FenceScene(deadline: 8000)
    let timeline = try FakeTimeline()
    let consumer = try consumer(scene, timeline)
    try scene.flush()
    let frame = try scene.frame(consumer)
    try scene.settle()
    try timeline.breakNode()
    try consumer.done(frame, point: 1)
    let refusal = try #require(whyRefused(consumer))
    #expect(refusal.code == 2 && refusal.messageType == 2 && refusal.field == 24, "\(refusal)")
    // Whoever breaks it loses the connection, and the guest goes on.
    try scene.waitForAnswer(1)
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
  }

  @Test func readersOfCopiesBringNoTimelines() throws {
    let scene = try FenceScene(deadline: 8000)
    let consumer = try FrameConsumer(
      path: scene.pinhole.framesSocket,
      options: .init(name: "copies", copyOnly: true, takesTimelines: true))
    _ = try consumer.next(timeout: 5000)
    #expect(consumer.producer != nil && !consumer.mayUseTimelines)
    let timeline = try FakeTimeline()
    #expect(throws: FramesError.self) {
      try consumer.addTimeline(
        output: 0, syncobj: timeline.descriptor.raw, node: timeline.node.raw)
    }
  }
}
