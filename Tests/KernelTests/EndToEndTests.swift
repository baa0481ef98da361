import Buffers
import FakeGuest
import Glibc
import GuestMemory
import Linux
import PinholeFrames
import Pixels
import Testing

/// Guest, pinhole and consumer are three processes; a fourth one discards pages.
@Suite(.serialized, .enabled(if: bufferProblem == nil, "needs userfaultfd"))
struct EndToEndTests {
  private static let width = 320
  private static let height = 240

  private struct Scene {
    let pinhole: any RunningPinhole
    let driver: GPUDriver
    let buffer: Framebuffer
    let watcher: NewestFrame
    let puncher: FakeGuest.Puncher

    /// Offsets of the picture's pages in the guest's memfd.
    var offsets: [UInt64] {
      buffer.pages.addresses.map { driver.ram.fileOffset(ofGuest: $0) ?? 0 }
    }

    func draw(_ frame: Int) {
      buffer.draw(TestPicture.pages.render(width: width, height: height, frame: frame))
    }

    /// Flushes with a fence, which the device answers once the consumer has released the frame.
    func flush(_ fence: UInt64) throws {
      for command in buffer.flushCommands(fence: fence) { try driver.send(command) }
      try watcher.follow(driver)
    }

    func differs() throws -> Bool {
      let count = EndToEndTests.width * EndToEndTests.height * 4
      return try watcher.bytes() != driver.ram.read(buffer.pages, count: count)
    }
  }

  private func scene(
    _ detector: String, mode: String = "direct", kind: Framebuffer.Kind = .twoD, seed: UInt64
  ) throws -> Scene {
    let pinhole = try startPinhole(
      [
        "--scanout", mode, "--detector", detector, "--hold-deadline", "2000", "--log-level",
        "warning",
      ])
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let buffer = try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, kind: kind,
      placement: .scattered(seed: seed))
    let watcher = try NewestFrame(pinhole.framesSocket)
    try watcher.take(milliseconds: 5000)
    let puncher = try FakeGuest.Puncher(ram.fd.raw)
    let scene = Scene(
      pinhole: pinhole, driver: driver, buffer: buffer, watcher: watcher, puncher: puncher)
    scene.draw(0)
    try buffer.show()
    try scene.flush(1)
    return scene
  }

  @Test(arguments: ["scan", "faults"])
  func aThousandDiscardsShowNoStaleByte(_ detector: String) throws {
    let seed = UInt64.random(in: 0 ... .max)
    print("aThousandDiscardsShowNoStaleByte(\(detector)): seed \(seed)")
    var random = SeededRandom(seed: seed)
    let scene = try scene(detector, seed: seed)
    #expect(try !scene.differs())
    let once = try PlainUdmabuf(scene.driver.ram.fd.raw, scene.offsets)
    var stale = 0
    var staleOnce = 0
    for turn in 1...1000 {
      let page = Int.random(in: 0..<scene.offsets.count, using: &random)
      try scene.puncher.discard(offset: scene.offsets[page], count: 4096)
      let stamp = PageStamp.bytes(tag: seed, number: UInt64(turn))
      scene.driver.ram.write(stamp, to: scene.buffer.pages, at: page * 4096)
      try scene.flush(UInt64(turn) + 1)
      if try scene.differs() { stale += 1 }
      if try once.differs(from: scene.driver.ram.read(scene.buffer.pages, count: once.count)) {
        staleOnce += 1
      }
    }
    #expect(stale == 0)
    #expect(staleOnce == 1000, "the check must be able to fail")
    #expect(scene.watcher.memories == ["dmaBuf"])
    #expect(scene.watcher.generations.count > 1000)
    try end(scene)
  }

  @Test(arguments: ["scan", "faults"])
  func aHoleReadsAsZero(_ detector: String) throws {
    let scene = try scene(detector, seed: 11)
    try scene.puncher.discard(offset: scene.offsets[5], count: 4096)
    try scene.flush(2)
    let bytes = try #require(try scene.watcher.bytes())
    #expect(bytes[(5 * 4096)..<(6 * 4096)].allSatisfy { $0 == 0 })
    #expect(bytes[(4 * 4096)..<(5 * 4096)].contains { $0 != 0 })
    try end(scene)
  }

  @Test func betweenFlushesTheConsumerIsToldToo() throws {
    let scene = try scene("scan", seed: 12)
    let before = scene.watcher.generations.count
    try scene.puncher.discard(offset: scene.offsets[0], count: 4096)
    while scene.watcher.generations.count == before {
      try #require(try scene.watcher.take(milliseconds: 5000), "no word of the discard")
    }
    try scene.watcher.take(milliseconds: 100)
    #expect(scene.watcher.removed.last == .discarded)
    let bytes = try #require(try scene.watcher.bytes())
    #expect(bytes.prefix(4096).allSatisfy { $0 == 0 })
    scene.driver.ram.write([UInt8](repeating: 7, count: 4096), to: scene.buffer.pages)
    #expect(try scene.watcher.bytes()?.prefix(4096).allSatisfy { $0 == 7 } == true)
    try end(scene)
  }

  @Test func blobsAreShownDirectly() throws {
    let scene = try scene("scan", kind: .blob, seed: 13)
    #expect(scene.watcher.memories == ["dmaBuf"])
    try scene.puncher.discard(offset: scene.offsets[3], count: 4096)
    scene.draw(1)
    try scene.flush(2)
    #expect(try !scene.differs())
    try end(scene)
  }

  @Test func thePictureOutlivesItsPages() throws {
    let scene = try scene("scan", seed: 14)
    let picture = try #require(try scene.watcher.bytes())
    try scene.driver.send(.unref(1))
    try scene.watcher.follow(scene.driver)
    scene.draw(5)
    #expect(scene.watcher.removed == [.destroyed])
    #expect(scene.watcher.memories == ["dmaBuf", "copy"])
    #expect(try scene.watcher.bytes() == picture)
    try end(scene)
  }

  @Test func changingBetweenCopiesAndPagesLosesNothing() throws {
    let scene = try scene("scan", mode: "auto", seed: 15)
    let driver = scene.driver
    let other = try Framebuffer(
      driver, resource: 2, width: Self.width, height: Self.height,
      placement: .scattered(seed: 16))
    var frame = 1
    for round in 0..<3 {
      for turn in 0..<8 {
        frame += 1
        let next = turn % 2 == 0 ? other : scene.buffer
        next.draw(TestPicture.pages.render(width: Self.width, height: Self.height, frame: frame))
        try driver.perform(.transferToHost2D(next.resource, next.bounds, offset: 0))
        try next.show()
        try driver.send(.flush(next.resource, next.bounds).fenced(UInt64(frame)))
        try scene.watcher.follow(driver)
        #expect(try scene.watcher.bytes() == pixels(next, driver), "flip \(turn) of \(round)")
      }
      // Only a few pixels change from now on: copies that missed a frame would show.
      for turn in 0..<6 {
        frame += 1
        let x = turn * 40
        let row = [UInt8](repeating: UInt8(truncatingIfNeeded: frame), count: 120)
        driver.ram.write(row, to: scene.buffer.pages, at: (round * Self.width + x) * 4)
        let area = Rect(x: UInt32(x), y: UInt32(round), width: 30, height: 1)
        for command in scene.buffer.flushCommands(area, fence: UInt64(frame)) {
          try driver.send(command)
        }
        try scene.watcher.follow(driver)
        #expect(try !scene.differs(), "drawing \(turn) of \(round)")
      }
    }
    #expect(scene.watcher.memories == ["dmaBuf", "copy"])
    try end(scene)
  }

  private func pixels(_ buffer: Framebuffer, _ driver: GPUDriver) -> [UInt8] {
    driver.ram.read(buffer.pages, count: Self.width * Self.height * 4)
  }

  /// Every pin has ended once the guest is gone.
  private func end(_ scene: Scene) throws {
    #expect(scene.pinhole.terminate() == 0, "\(scene.pinhole.log)")
    let log = scene.pinhole.log
    #expect(!log.contains("error"), "\(log)")
  }
}

/// A udmabuf that is made once and never again.
private final class PlainUdmabuf {
  private let fd: SharedFD
  let count: Int

  init(_ memfd: CInt, _ offsets: [UInt64]) throws {
    let device = try anyUdmabuf()
    let file = try GuestFile(try OwnedFD.duplicate(of: memfd))
    let ranges = offsets.map { FileRange(file: file, offset: $0, count: 4096) }
    fd = SharedFD(try device.create(ranges))
    count = offsets.count * 4096
  }

  func differs(from bytes: [UInt8]) throws -> Bool { try bytes != shownBytes(fd.raw, count: count) }
}
