import FakeGuest
import FrameProtocol
import Glibc
import Linux
import PinholeFrames
import Pixels
import Testing

/// `pinhole share` between a device and programs that nobody trusts.
@Suite struct ShareTests {
  private struct Scene {
    let pinhole: PinholeProcess
    let share: PinholeShare
    let copies: String
    let driver: GPUDriver
    let frame: Framebuffer
  }

  private func scene(_ options: [String] = []) throws -> Scene {
    let pinhole = try PinholeProcess()
    let copies = pinhole.framesSocket + "-copies"
    let share = try PinholeShare(of: pinhole.framesSocket, on: copies, options)
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 32 << 20)))
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    frame.draw(TestPicture.smpte.render(width: 320, height: 200))
    try frame.show()
    try frame.flush()
    return Scene(pinhole: pinhole, share: share, copies: copies, driver: driver, frame: frame)
  }

  /// Answers everything until a frame shows this picture.
  private func wait(
    for picture: Raster, _ consumer: FrameConsumer, milliseconds: UInt64 = 20_000
  ) throws -> Bool {
    let deadline = Clock.now + milliseconds * 1_000_000
    while Clock.now < deadline {
      guard case .frame(let frame)? = try consumer.next(timeout: 100) else { continue }
      let pixels = try consumer.buffers[frame.buffer]?.pixels(of: frame.crop)
      try consumer.done(frame)
      let expected = picture.pixels.withUnsafeBytes { Array($0) }
      if pixels == expected { return true }
    }
    return false
  }

  @Test(arguments: [(UInt32(0), UInt32(0)), (4096, 16), (256, 4096)])
  func strangersSeeWhatConsumersSee(_ stride: UInt32, _ height: UInt32) throws {
    let scene = try scene()
    let stranger = try FrameConsumer(
      path: scene.copies,
      options: .init(strideAlignment: stride, heightAlignment: height))
    #expect(
      try wait(for: TestPicture.smpte.render(width: 320, height: 200), stranger),
      "\(scene.share.log)")
    for round in 0..<20 {
      let next = TestPicture.pages.render(width: 320, height: 200, frame: round)
      scene.frame.draw(next)
      try scene.frame.flush()
      #expect(try wait(for: next, stranger), "round \(round): \(scene.share.log)")
    }
    for buffer in stranger.buffers.values {
      #expect(buffer.memory == .copy)
      let writable = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, buffer.descriptor, 0)
      #expect(writable == MAP_FAILED)
    }
    #expect(scene.share.terminate() == 0, "\(scene.share.log)")
    #expect(scene.pinhole.terminate() == 0)
  }

  /// Strangers that never answer keep a copy for a moment only.
  @Test func whoDoesNotAnswerLosesItsCopies() throws {
    let scene = try scene()
    let lazy = try (0..<8).map { _ in try FrameConsumer(path: scene.copies) }
    let good = try FrameConsumer(path: scene.copies)
    for round in 0..<30 {
      let next = TestPicture.pages.render(width: 320, height: 200, frame: round)
      scene.frame.draw(next)
      try scene.frame.flush()
      #expect(try wait(for: next, good), "round \(round): \(scene.share.log)")
    }
    // They are told so, and are shown the newest once they answer.
    let deadline = Clock.now + 20_000_000_000
    var frames: [ReceivedFrame] = []
    var wasTold = false
    while !wasTold, Clock.now < deadline {
      switch try lazy[0].next(timeout: 100) {
      case .bufferRemoved(_, .timeout): wasTold = true
      case .frame(let frame): frames.append(frame)
      default: break
      }
    }
    #expect(wasTold, "\(scene.share.log)")
    for frame in frames { try lazy[0].done(frame) }
    let last = TestPicture.pages.render(width: 320, height: 200, frame: 29)
    #expect(try wait(for: last, lazy[0]))
    #expect(scene.share.terminate() == 0, "\(scene.share.log)")
  }

  /// Whoever comes, keeps what he was given and goes makes no new memory.
  @Test func copiesAreTheSameForAllWhoCome() throws {
    let scene = try scene()
    var kept: [SharedFD] = []
    var files: Set<FileFacts.Identity> = []
    for _ in 0..<40 {
      let stranger = try FrameConsumer(path: scene.copies)
      let picture = TestPicture.smpte.render(width: 320, height: 200)
      #expect(try wait(for: picture, stranger), "\(scene.share.log)")
      for buffer in stranger.buffers.values {
        kept.append(SharedFD(try OwnedFD.duplicate(of: buffer.descriptor)))
        files.insert(try FileFacts(of: buffer.descriptor).identity)
      }
    }
    #expect(kept.count >= 40 && files.count <= 6)
    #expect(scene.share.terminate() == 0, "\(scene.share.log)")
  }

  /// An output for whose picture there is no memory is not shown, which is said once, until another
  /// has given memory back; the guest need not draw again for that.
  @Test func anOutputWithoutMemoryIsShownOnceThereIsSome() throws {
    let scene = try scene(["--max-memory", "300K"])
    let stranger = try FrameConsumer(path: scene.copies)
    let first = TestPicture.smpte.render(width: 320, height: 200)
    #expect(try wait(for: first, stranger), "\(scene.share.log)")
    let other = try Framebuffer(scene.driver, resource: 2, width: 320, height: 200)
    let second = TestPicture.gradient.render(width: 320, height: 200)
    other.draw(second)
    try other.show(on: 1)
    for _ in 0..<5 { try other.flush() }
    func complaints() -> Int { scene.share.log.split(separator: "is not shown to").count - 1 }
    let deadline = Clock.now + 20_000_000_000
    while complaints() == 0, Clock.now < deadline {
      _ = try wait(for: second, stranger, milliseconds: 50)
    }
    for _ in 0..<5 { try other.flush() }
    #expect(!(try wait(for: second, stranger, milliseconds: 600)))
    #expect(complaints() == 1, "\(scene.share.log)")
    #expect(scene.share.log.contains("raise --max-memory"))
    try scene.driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    #expect(try wait(for: second, stranger), "\(scene.share.log)")
    #expect(scene.share.terminate() == 0, "\(scene.share.log)")
    // Whatever there was no memory for was answered.
    #expect(scene.pinhole.terminate() == 0)
    #expect(!scene.pinhole.log.contains("TOO_SLOW"), "\(scene.pinhole.log)")
  }

  /// A picture that there can never be memory for does not keep a smaller one from being shown.
  @Test func aPictureTooLargeIsFollowedByASmallerOne() throws {
    let scene = try scene(["--max-memory", "64K"])
    let stranger = try FrameConsumer(path: scene.copies)
    let deadline = Clock.now + 20_000_000_000
    while !scene.share.log.contains("is not shown to strangers"), Clock.now < deadline {
      try scene.frame.flush()
      usleep(10_000)
    }
    #expect(scene.share.log.contains("320x200"), "\(scene.share.log)")
    let small = try Framebuffer(scene.driver, resource: 2, width: 64, height: 64)
    let picture = TestPicture.checker.render(width: 64, height: 64)
    small.draw(picture)
    try small.show()
    try small.flush()
    #expect(try wait(for: picture, stranger), "\(scene.share.log)")
    #expect(scene.share.terminate() == 0, "\(scene.share.log)")
    #expect(scene.share.log.contains("starved "), "\(scene.share.log)")
  }

  @Test func itEndsWithTheProducer() throws {
    let scene = try scene()
    let stranger = try FrameConsumer(path: scene.copies)
    #expect(try wait(for: TestPicture.smpte.render(width: 320, height: 200), stranger))
    #expect(scene.pinhole.terminate() == 0)
    #expect(scene.share.child.waitForEnd(milliseconds: 20_000) == 1)
    #expect(scene.share.log.contains("--frames-socket"), "\(scene.share.log)")
    #expect(access(scene.copies, F_OK) != 0, "the socket was left behind")
  }
}
