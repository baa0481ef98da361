import Buffers
import FakeGuest
import Glibc
import Linux
import PinholeFrames
import Pixels
import Testing

/// Pages that come and go under pictures which consumers see: other processes, a real udmabuf.
@Suite(.serialized, .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct PageLifeTests {
  private static let width = 320
  private static let height = 240
  private static let half: UInt64 = 8 << 20

  private struct Scene {
    let pinhole: any RunningPinhole
    let frontEnd: VhostUserFrontEnd
    let driver: GPUDriver
    let watcher: NewestFrame

    var ram: GuestRAM { driver.ram }

    func flush(_ buffer: Framebuffer, fence: UInt64) throws {
      for command in buffer.flushCommands(fence: fence) { try driver.send(command) }
      try watcher.follow(driver)
    }

    func send(_ commands: GPUCommand...) throws {
      for command in commands {
        try driver.send(command) { answer in
          #expect(answer.response.isOK, "\(command.name): \(answer.response)")
        }
      }
      try watcher.follow(driver)
    }

    /// What consumers see after something that no command of the guest caused.
    func settle() throws { while try watcher.take(milliseconds: 300) {} }

    /// Once the guest has let go of everything, so has the host.
    func end() throws {
      try driver.restart()
      try settle()
      // What others had is looked for now and then.
      #expect(try pinhole.waits { $0["pinned-bytes"] == 0 })
      #expect(pinhole.terminate() == 0, "\(pinhole.log)")
      let log = pinhole.log
      #expect(log.contains(" pinned-bytes 0"), "\(log)")
      #expect(!log.contains("error:"), "\(log)")
    }
  }

  /// A guest with two regions, the lower of which is nearly full.
  private func scene(_ options: String...) throws -> Scene {
    let pinhole = try startPinhole(["--scanout", "direct"] + options)
    let ram = try GuestRAM(
      size: 2 * Self.half,
      regions: [
        .init(guestAddress: 0, size: Self.half, fileOffset: 0),
        .init(guestAddress: 1 << 32, size: Self.half, fileOffset: Self.half),
      ])
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram)
    let driver = try GPUDriver(frontEnd)
    try driver.perform(.getDisplayInfo)
    _ = try ram.allocate(bytes: 6_900_000)
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    return Scene(pinhole: pinhole, frontEnd: frontEnd, driver: driver, watcher: watcher)
  }

  private func picture(_ scene: Scene, _ kind: Framebuffer.Kind = .blob) throws -> Framebuffer {
    let buffer = try Framebuffer(
      scene.driver, resource: 1, width: Self.width, height: Self.height, kind: kind)
    buffer.draw(TestPicture.gradient.render(width: Self.width, height: Self.height))
    try buffer.show()
    try scene.flush(buffer, fence: 1)
    return buffer
  }

  private func bytes(_ scene: Scene, _ pages: GuestPages) -> [UInt8] {
    scene.ram.read(pages, count: Self.width * Self.height * 4)
  }

  @Test(arguments: [Framebuffer.Kind.twoD, .blob])
  func memoryThatIsTakenOutShowsBlackUntilItIsBack(_ kind: Framebuffer.Kind) throws {
    let scene = try scene()
    // Too large for what is left below.
    _ = try scene.ram.allocate(bytes: 300_000)
    let buffer = try picture(scene, kind)
    try #require(buffer.pages.start >= 1 << 32)
    #expect(scene.watcher.memories == ["dmaBuf"])
    try scene.frontEnd.removeMemory(scene.ram.regions[1])
    try scene.settle()
    #expect(scene.watcher.removed == [.memory])
    #expect(scene.watcher.memories == ["dmaBuf", "copy"])
    #expect(try scene.watcher.bytes()?.allSatisfy { $0 == 0 } == true)
    try scene.frontEnd.addMemory(scene.ram.regions[1])
    try scene.settle()
    #expect(try scene.watcher.bytes() == bytes(scene, buffer.pages))
    let name = try #require(scene.watcher.newest).buffer
    #expect("\(try #require(scene.watcher.consumer.buffers[name]).memory)" == "dmaBuf")
    try scene.end()
  }

  @Test func otherPagesAreTheNextGeneration() throws {
    let scene = try scene()
    let buffer = try picture(scene)
    let first = try #require(scene.watcher.newest).buffer
    let before = bytes(scene, buffer.pages)
    try scene.send(.detachBacking(1))
    #expect(scene.watcher.removed == [.rebacked])
    scene.ram.fill(buffer.pages, with: 0x55)
    #expect(try scene.watcher.bytes() == before)
    let others = try scene.ram.allocate(bytes: buffer.pages.byteCount)
    let picture = TestPicture.smpte.render(width: Self.width, height: Self.height)
    picture.pixels.withUnsafeBytes { scene.ram.write($0, to: others) }
    try scene.send(.attachBacking(1, others.entries()))
    try scene.flush(buffer, fence: 2)
    let second = try #require(scene.watcher.newest).buffer
    #expect(second.number == first.number && second.generation == first.generation + 1)
    #expect(try scene.watcher.bytes() == bytes(scene, others))
    try scene.end()
  }

  @Test func aPictureThatBeginsLaterInItsBlobIsShownDirectly() throws {
    let scene = try scene()
    let buffer = try Framebuffer(
      scene.driver, resource: 1, width: Self.width, height: Self.height, kind: .blob)
    buffer.draw(TestPicture.gradient.render(width: Self.width, height: Self.height))
    let stride = Self.width * 4
    for offset in [0, 8192, 4096 * 3 + 64] {
      let part = Rect(x: 8, y: 1, width: 64, height: 32)
      let set = GPUCommand.setScanoutBlob(
        0, resource: 1, part, format: .b8g8r8x8, width: 128, height: 40,
        stride: UInt32(stride), offset: UInt32(offset))
      try scene.send(set, .flush(1, part).fenced(UInt64(offset) + 1))
      let first = offset + stride + 32
      let expected = (0..<32).flatMap { row in
        scene.ram.read(buffer.pages, at: first + row * stride, count: 256)
      }
      #expect(try scene.watcher.bytes() == expected, "offset \(offset)")
    }
    #expect(scene.watcher.memories == ["dmaBuf"])
    try scene.end()
  }

  @Test func pinsAreBudgeted() throws {
    let scene = try scene("--max-pinned", "256K")
    let buffer = try picture(scene)
    #expect(scene.watcher.memories == ["copy"])
    #expect(try scene.watcher.bytes() == bytes(scene, buffer.pages))
    #expect(scene.pinhole.log.contains("would pass the pin budget"))
    try scene.end()
  }

  // MARK: - Consumers that are behind

  /// What such a consumer has on its screen is not unused, though the guest has left it long since.
  @Test func whatIsStillOnAScreenIsNotTakenAwayAsUnused() throws {
    // Nobody is late, and no flush waits for an answer.
    let scene = try scene("--hold-deadline", "10000")
    try flipAway(scene)
    try scene.settle()
    try scene.send(.unref(1), .unref(2))
    try scene.end()
  }

  private func flipAway(_ scene: Scene) throws {
    let slow = try FrameConsumer(
      path: scene.pinhole.framesSocket, options: .init(name: "slow"))
    guard case .connected = try #require(try slow.next(timeout: 5000)) else {
      throw Errno(EPROTO, "connect")
    }
    var frames: [ReceivedFrame] = []
    var removed: [RemovalReason] = []
    func listen(until isEnough: () -> Bool) throws {
      while !isEnough(), let event = try slow.next(timeout: 5000) {
        switch event {
        case .frame(let frame): frames.append(frame)
        case .bufferRemoved(_, let reason): removed.append(reason)
        default: break
        }
      }
    }
    for resource: UInt32 in [1, 2] {
      let picture = try Framebuffer(
        scene.driver, resource: resource, width: Self.width, height: Self.height, kind: .blob)
      try picture.show()
      for _ in 0..<2 {
        for command in picture.flushCommands() { try scene.driver.send(command) }
        try scene.watcher.follow(scene.driver)
      }
    }
    try listen { frames.count == 2 }
    // Both are looked at each time; 200 times 5 ms without being shown are enough to be let go.
    let before = try scene.pinhole.counters()["checks"] ?? 0
    #expect(try scene.pinhole.waits { ($0["checks"] ?? 0) > before + 500 })
    while let event = try slow.next(timeout: 0) {
      if case .bufferRemoved(let name, let reason) = event {
        Issue.record("buffer \(name) was removed: \(reason)")
      }
    }
    #expect(frames.count == 2)
    for frame in frames { try slow.done(frame) }
    try listen { frames.count > 2 && removed.contains(.unused) }
    #expect(frames.count > 2 && removed.contains(.unused))
  }

  // MARK: - Other devices

  /// Who does not let go of pages that were taken back is given no others.
  @Test(.enabled(if: hasUdmabuf, "needs /dev/udmabuf: nothing tells who has other memory"))
  func anotherDeviceThatKeepsPagesGetsNone() throws {
    let scene = try scene()
    let buffer = try picture(scene)
    let name = Array(try scene.driver.run(.assignUUID(1)).bytes[24..<40])
    var kept = try object(scene, name)
    #expect(kept != nil)
    try scene.send(.detachBacking(1))
    let deadline = Clock.now + 20_000_000_000
    while !scene.pinhole.log.contains("another device of this guest still has"),
      Clock.now < deadline
    { try scene.watcher.take(milliseconds: 20) }
    #expect(scene.pinhole.log.contains("another device of this guest still has"))
    try scene.send(.attachBacking(1, buffer.pages.entries()))
    #expect(try object(scene, name) == nil)
    kept = nil
    #expect(try scene.pinhole.waits { $0["kept-buffers"] == 0 })
    #expect(try object(scene, name) != nil)
    withExtendedLifetime(kept) {}
    try scene.send(.unref(1))
    try scene.end()
  }

  /// Asks for a shared object as QEMU does on behalf of another device.
  private func object(_ scene: Scene, _ name: [UInt8]) throws -> SharedFD? {
    let channel = scene.frontEnd.channel
    try channel.send(FrontEndChannel.Request.getSharedObject.rawValue, name)
    var reply = [UInt8](repeating: 0, count: 64)
    var fds: [CInt] = []
    let count = try reply.withUnsafeMutableBytes {
      try UnixSocket.receive(channel.socket.raw, into: $0, fds: &fds).count
    }
    #expect(count == 12 && reply[0] == 41 && reply[4] == 5)
    #expect(fds.count <= 1)
    return fds.first.map { SharedFD(OwnedFD(adopting: $0)) }
  }

  @Test(arguments: [true, false])
  func anotherDeviceGetsTheGuestsPages(onScreen: Bool) throws {
    let scene = try scene()
    let buffer = try Framebuffer(
      scene.driver, resource: 1, width: Self.width, height: Self.height, kind: .blob)
    buffer.draw(TestPicture.gradient.render(width: Self.width, height: Self.height))
    try buffer.show()
    if onScreen { try scene.flush(buffer, fence: 1) }
    let answer = try scene.driver.run(.assignUUID(1))
    let name = Array(answer.bytes[24..<40])
    // As long as the other device has them the pages count as pinned.
    do {
      let first = try #require(try object(scene, name))
      func view(_ fd: SharedFD) throws -> [UInt8] {
        try shownBytes(fd.raw, count: Self.width * Self.height * 4)
      }
      #expect(try view(first) == bytes(scene, buffer.pages))
      let again = try #require(try object(scene, []))
      #expect(try FileFacts(of: again.raw).identity == FileFacts(of: first.raw).identity)

      // The next one who asks after a discard gets the guest's new pages.
      let page = try #require(scene.ram.fileOffset(ofGuest: buffer.pages.start))
      try FakeGuest.Puncher(scene.ram.fd.raw).discard(offset: page, count: 4096)
      scene.ram.write([UInt8](repeating: 9, count: 4096), to: buffer.pages)
      let second = try #require(try object(scene, name))
      #expect(try view(second) == bytes(scene, buffer.pages))
      #expect(try view(second) != view(first))
      // At once, too, before any timer could have looked.
      for round in 10..<30 as Range<UInt8> {
        try MemFD.punchHole(scene.ram.fd.raw, offset: page, count: 4096)
        scene.ram.write([UInt8](repeating: round, count: 4096), to: buffer.pages)
        let next = try #require(try object(scene, name))
        #expect(try view(next) == bytes(scene, buffer.pages), "round \(round)")
      }
    }
    try scene.send(.unref(1))
    #expect(try object(scene, name) == nil)
    try scene.end()
  }
}
