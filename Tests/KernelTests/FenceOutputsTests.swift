import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// A guest that fences its flushes on two outputs, and a consumer that answers for one of them only.
@Suite(.serialized, .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct FenceOutputsTests {
  private static let size = 128
  private static let flips: UInt32 = 100

  /// Reads frames and answers those of some outputs.
  private final class Reader: Sendable {
    let frames = Locked<[UInt32: Int]>([:])
    let failure = Locked<String?>(nil)
    let isOver = Locked(false)

    /// Runs in a thread of its own.
    func follow(_ path: String, answering outputs: Set<UInt32>) {
      do {
        let consumer = try FrameConsumer(path: path)
        while !isOver.withLock({ $0 }) {
          guard case .frame(let frame) = try consumer.next(timeout: 20) else { continue }
          frames.withLock { $0[frame.output, default: 0] += 1 }
          if outputs.contains(frame.output) { try consumer.done(frame) }
        }
      } catch { failure.withLock { $0 = "\(error)" } }
    }
  }

  /// Its frames of that output cost the guest one deadline each until it gets copies, and the other
  /// output loses no flip.
  @Test func whoNeverAnswersOnOneOutputDoesNotSlowTheOther() throws {
    let pinhole = try startPinhole([
      "--scanout", "direct", "--hold-deadline", "10000",
    ])
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let buffers = try (0..<4 as Range<UInt32>).map {
      try Framebuffer(
        driver, resource: $0 + 1, width: Self.size, height: Self.size, kind: .blob,
        placement: .scattered(seed: UInt64($0)))
    }
    let (good, deaf) = (Reader(), Reader())
    let path = pinhole.framesSocket
    let threads = [try Follower(good, path, [0, 1]), try Follower(deaf, path, [1])]
    try driver.wait(for: "both consumers", milliseconds: 20_000) {
      (try? pinhole.counters()["consumers"]) == 2
    }
    for flip in 1...Self.flips {
      for output in 0..<2 as Range<UInt32> {
        let buffer = buffers[Int(output * 2 + flip % 2)]
        let pixels = [UInt32](repeating: flip, count: Self.size * Self.size)
        pixels.withUnsafeBytes { ram.write($0, to: buffer.pages) }
        try driver.send(buffer.showCommand(on: output))
        let flush = GPUCommand.flush(buffer.resource, buffer.bounds)
        try driver.send(flush.fenced(UInt64(flip * 2 + output)))
      }
      try driver.kick()
      try driver.drain()
    }
    try driver.wait(for: "the last frames", milliseconds: 20_000) {
      good.frames.withLock { $0[1] ?? 0 } >= Int(Self.flips)
    }
    let counters = try pinhole.counters()
    withExtendedLifetime(threads) {}
    #expect(good.failure.withLock { $0 } == nil && deaf.failure.withLock { $0 } == nil)
    #expect(good.frames.withLock { $0 } == [0: Int(Self.flips), 1: Int(Self.flips)])
    // No more than may be unanswered, whatever the number of flips.
    #expect(deaf.frames.withLock { $0[0] } == 2)
    let late = try #require(counters["late"])
    #expect((1...2).contains(late), "\(late) of \(Self.flips) flips waited for nothing")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  /// A reader's thread, which ends with this.
  private final class Follower {
    private let reader: Reader
    private let thread: Linux.Thread

    init(_ reader: Reader, _ path: String, _ outputs: Set<UInt32>) throws {
      self.reader = reader
      thread = try Linux.Thread("reader") { reader.follow(path, answering: outputs) }
    }

    deinit { reader.isOver.withLock { $0 = true } }
  }
}
