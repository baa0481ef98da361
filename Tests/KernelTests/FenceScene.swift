import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// A guest with a blob on screen; its flushes are fenced.
final class FenceScene {
  let pinhole: PinholeProcess
  let driver: GPUDriver
  let buffer: Framebuffer
  private(set) var answered = 0
  private var fence: UInt64 = 0

  init(deadline: Int) throws {
    pinhole = try PinholeProcess(
      ["--scanout", "direct", "--hold-deadline", "\(deadline)", "--log-level", "info"])
    let ram = try GuestRAM(size: 16 << 20)
    driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    buffer = try Framebuffer(
      driver, resource: 1, width: 320, height: 240, kind: .blob, placement: .scattered(seed: 3))
    try buffer.show()
  }

  func consumer(
    fences: Bool = true, timelines: Bool = false, isExplicit: Bool = false
  ) throws -> FrameConsumer {
    let consumer = try FrameConsumer(
      path: pinhole.framesSocket,
      options: .init(
        name: "fences", takesFences: fences, takesTimelines: timelines, isExplicit: isExplicit))
    guard case .connected = try #require(try consumer.next(timeout: 5000)) else {
      throw Errno(EPROTO, "connect")
    }
    return consumer
  }

  /// Flushes once for each answer; the consumer gets copies, and the guest does not wait for it.
  func expectCopies(for consumer: FrameConsumer, answers: ClosedRange<Int>) throws {
    for number in answers {
      try flush()
      let frame = try self.frame(consumer)
      #expect(consumer.buffers[frame.buffer]?.memory == .copy)
      try waitForAnswer(number)
      try consumer.done(frame)
    }
  }

  /// Sends a flush with a fence and does not wait for its answer.
  func flush() throws {
    fence += 1
    let mine = fence
    for command in buffer.flushCommands(fence: fence) {
      try driver.send(command) { [self] in if $0.fence == mine { answered += 1 } }
    }
    try driver.kick()
  }

  /// The next frame that a consumer is told of.
  func frame(_ consumer: FrameConsumer) throws -> ReceivedFrame {
    while let event = try consumer.next(timeout: 5000) {
      if case .frame(let frame) = event { return frame }
    }
    throw Errno(ETIMEDOUT, "frame")
  }

  /// Returns once pinhole has served all that it was sent: newcomers are greeted in their turn.
  func settle() throws {
    for _ in 0..<2 {
      _ = try consumer()
      try driver.perform(.getDisplayInfo)
      try driver.poll()
    }
  }

  func waitForAnswer(_ number: Int) throws {
    try driver.wait(for: "the answer to flush \(number)") { self.answered == number }
  }
}
