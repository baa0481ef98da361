import FakeGuest
import Glibc
import GuestMemory
import Linux
import PinholeFrames
import Testing
import VhostUser

/// Descriptors of a file system whose server never answers: nothing ends the waiting for it but the
/// server's own end, not even a signal.
@Suite(.serialized, .enabled(if: SilentFile.isPossible, "needs to mount FUSE"))
struct SilentFileTests {
  /// What is done to a process that stands still and has not received anything of it yet.
  private func hand(
    _ file: SilentFile, to pinhole: PinholeProcess, _ send: (CInt) throws -> Void
  ) throws {
    try #require(kill(pinhole.child.pid, SIGSTOP) == 0)
    defer { kill(pinhole.child.pid, SIGCONT) }
    try send(file.raw)
    // Ours is closed while the server still answers.
    file.giveAway()
  }

  /// Another front-end comes, and a consumer sees what it draws.
  private func expectServed(_ pinhole: PinholeProcess, _ watcher: FrameWatcher) throws {
    var options = VhostUserFrontEnd.Options()
    options.patience = 60_000
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20), options))
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    let picture = TestPicture.smpte.render(width: 320, height: 200)
    frame.draw(picture)
    try frame.show()
    try frame.flush(fence: 1)
    let seen = watcher.difference(from: picture, milliseconds: 15_000)
    #expect(seen == nil, "\(pinhole.log)")
  }

  /// Closing asks the server, as nothing else of it can be avoided; and nobody else has waited.
  private func expectCloseAlone(_ file: SilentFile, _ pinhole: PinholeProcess) {
    let deadline = Clock.now + 20_000_000_000
    while !file.asked.contains(SilentFile.flush), Clock.now < deadline { usleep(10_000) }
    let asked = file.asked
    #expect(asked.contains(SilentFile.flush), "it was not closed: \(asked)")
    #expect(
      asked.allSatisfy { $0 == SilentFile.flush || $0 == SilentFile.release },
      "calls that wait for the server: \(asked)")
    #expect(!pinhole.log.contains("the event loop has not turned"), "\(pinhole.log)")
  }

  private static let requests: [FrontEndRequest] = [
    .setOwner, .setMemoryTable, .setVringKick, .setVringCall, .setVringError, .gpuSetSocket,
    .setBackendRequestFD,
  ]

  @Test(arguments: requests)
  func frontEnds(_ request: FrontEndRequest) throws {
    let pinhole = try PinholeProcess()
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    let file = try SilentFile()
    do {
      let end = try UnixSocket.connect(pinhole.socket, kind: .stream)
      let payload: [UInt8]
      switch request {
      case .setMemoryTable:
        payload =
          MemoryTable([
            MemoryRegion(guestAddress: 0, size: 1 << 20, userAddress: 0, fileOffset: 0)
          ]).bytes
      case .setVringKick, .setVringCall, .setVringError:
        payload = VringDescriptor(index: 0).bytes
      default: payload = []
      }
      let bytes = VhostUserMessage(request, payload).encoded
      try hand(file, to: pinhole) { try FrameAttacks.send(end.raw, bytes, [$0]) }
      // It is received, and lost, while its sender is there.
      expectCloseAlone(file, pinhole)
    }
    try expectServed(pinhole, watcher)
    expectCloseAlone(file, pinhole)
    file.end()
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  @Test func aConsumersFirstMessage() throws {
    let pinhole = try PinholeProcess()
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    let file = try SilentFile()
    let end = try UnixSocket.connect(pinhole.framesSocket, kind: .seqpacket)
    try hand(file, to: pinhole) { try FrameAttacks.send(end.raw, FrameAttacks.hello(), [$0]) }
    expectCloseAlone(file, pinhole)
    try expectServed(pinhole, watcher)
    expectCloseAlone(file, pinhole)
    file.end()
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  @Test func aConsumersFence() throws {
    let pinhole = try PinholeProcess()
    let watcher = try FrameWatcher(path: pinhole.framesSocket)
    let file = try SilentFile()
    do {
      let driver = try GPUDriver(
        try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
      let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
      frame.draw(TestPicture.pages.render(width: 320, height: 200, frame: 1))
      try frame.show()
      try frame.flush()
      let consumer = try FrameConsumer(path: pinhole.framesSocket)
      var received: ReceivedFrame?
      while received == nil, let event = try consumer.next(timeout: 20_000) {
        if case .frame(let frame) = event { received = frame }
      }
      let first = try #require(received)
      try hand(file, to: pinhole) { try consumer.done(first, fence: $0) }
      expectCloseAlone(file, pinhole)
    }
    try expectServed(pinhole, watcher)
    expectCloseAlone(file, pinhole)
    file.end()
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
