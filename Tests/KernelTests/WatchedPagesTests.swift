import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Testing

/// Who may still read decides which pages are looked at, not what is on screen.
@Suite(.serialized, .enabled(if: access("/dev/udmabuf", R_OK | W_OK) == 0, "needs /dev/udmabuf"))
struct WatchedPagesTests {
  private let pinhole: PinholeProcess
  private let driver: GPUDriver
  private let consumer: FrameConsumer
  private let puncher: FakeGuest.Puncher
  private let buffers: [Framebuffer]

  init() throws {
    pinhole = try PinholeProcess(["--hold-deadline", "10000"])
    let ram = try GuestRAM(size: 16 << 20)
    driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    puncher = try FakeGuest.Puncher(ram.fd.raw)
    consumer = try FrameConsumer(path: pinhole.framesSocket)
    _ = try consumer.next(timeout: 5000)
    buffers = try [1, 2].map { [driver] in
      try Framebuffer(
        driver, resource: $0, width: 64, height: 64, kind: .blob,
        placement: .scattered(seed: UInt64($0)))
    }
  }

  private func next(_ isWanted: (FrameConsumer.Event) -> Bool) throws -> FrameConsumer.Event {
    while true {
      let event = try #require(try consumer.next(timeout: 5000), "it never came")
      if isWanted(event) { return event }
    }
  }

  private func show(_ buffer: Framebuffer) throws -> ReceivedFrame {
    try buffer.show()
    try buffer.flush()
    let event = try next { if case .frame = $0 { true } else { false } }
    guard case .frame(let frame) = event else { throw Errno(EINVAL, "show") }
    return frame
  }

  private func punch(_ buffer: Framebuffer) throws {
    let page = try #require(driver.ram.fileOffset(ofGuest: buffer.pages.addresses[2]))
    try puncher.discard(offset: page, count: 4096)
  }

  private func removal() throws -> (BufferName, RemovalReason) {
    let event = try next { if case .bufferRemoved = $0 { true } else { false } }
    guard case .bufferRemoved(let name, let reason) = event else { throw Errno(EINVAL, "removal") }
    return (name, reason)
  }

  /// A slow machine may find the picture unused before it is punched: then once more.
  private func attempts(_ body: () throws -> RemovalReason?) throws {
    for _ in 0..<8 {
      let reason = try body()
      if reason == .discarded { return }
      #expect(reason == .unused)
    }
    Issue.record("no discard was noticed")
  }

  /// The guest has flipped away from it, and the consumer reads it still, or may again.
  @Test(arguments: [true, false])
  func aPictureThatIsNotOnScreenAnyMore(_ isAnswered: Bool) throws {
    try attempts {
      let first = try show(buffers[0])
      if isAnswered { try consumer.done(first) }
      try buffers[1].show()
      try buffers[1].flush()
      try punch(buffers[0])
      let (name, reason) = try removal()
      #expect(name == first.buffer)
      if !isAnswered { try consumer.done(first) }
      while let event = try consumer.next(timeout: 0) {
        if case .frame(let frame) = event { try consumer.done(frame) }
      }
      guard reason == .discarded else { return reason }
      // The picture's next generation comes when the guest shows it again.
      let again = try show(buffers[0])
      #expect(again.buffer.number == name.number)
      #expect(again.buffer.generation == name.generation + 1)
      return reason
    }
    #expect(pinhole.terminate() == 0)
    #expect(pinhole.log.contains("resource 1 off screen: 1 pages"), "\(pinhole.log)")
  }

  /// A guest that flips all the time leaves the timer nothing to do.
  @Test func aPictureThatIsNotOnScreenWhileOthersAreFlipped() throws {
    let third = try Framebuffer(
      driver, resource: 3, width: 64, height: 64, kind: .blob, placement: .scattered(seed: 3))
    try attempts {
      let first = try show(buffers[0])
      try consumer.done(first)
      var removed: RemovalReason?
      for turn in 0..<40 where removed == nil {
        let buffer = turn % 2 == 0 ? buffers[1] : third
        if turn == 9 { try punch(buffers[0]) }
        try buffer.show()
        try buffer.flush()
        usleep(5000)
        while let event = try consumer.next(timeout: 0) {
          if case .frame(let frame) = event { try consumer.done(frame) }
          if case .bufferRemoved(first.buffer, let reason) = event { removed = reason }
        }
      }
      return removed
    }
    #expect(pinhole.terminate() == 0)
  }

  /// The old generation is gone from its consumers before the next one is made.
  @Test func theOldGenerationIsRemovedFirst() throws {
    try consumer.done(try show(buffers[0]))
    try punch(buffers[0])
    _ = try removal()
    let event = try #require(try consumer.next(timeout: 5000))
    guard case .bufferAdded(let new) = event else {
      Issue.record("\(event) came after the removal")
      return
    }
    #expect(new.name.generation == 2)
    #expect(pinhole.terminate() == 0)
  }
}
