import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// `pinhole serve` as its own process; QEMU, guest and display are played here.
@Suite struct PinholeSessionTests {
  private static let size: UInt64 = 64 << 20

  private func ram() throws -> GuestRAM {
    try GuestRAM(size: Self.size, regions: GuestRAM.pcRegions(size: Self.size))
  }

  @Test(arguments: ["auto", "direct", "copy"])
  func everyFrameReachesTheDisplayAndAConsumer(_ mode: String) throws {
    let pinhole = try PinholeProcess(["--scanout", mode])
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    for (flip, blob) in [(false, false), (true, false), (false, true), (true, true)] {
      var options = GuestSession.Options()
      options.width = 320
      options.height = 200
      options.picture = .checker
      options.scattered = true
      options.flip = flip
      options.blob = blob
      options.discard = .pages(3)
      options.seed = .random(in: 0 ... .max)
      print("everyFrameReachesTheDisplayAndAConsumer(\(mode)): seed \(options.seed)")
      let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram())
      let session = try GuestSession(frontEnd, options)
      let display = try #require(frontEnd.display)
      for number in 0..<20 {
        let drawn = try session.play(frame: number)
        #expect(consumer.difference(from: drawn) == nil, "frame \(number), \(options)")
        _ = session.compare(with: drawn, on: display)
      }
      #expect(session.counters.wrongPictures == 0)
      #expect(display.now.violations == [])
    }
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    #expect(access(pinhole.socket, F_OK) != 0, "its socket is gone")
  }

  @Test(arguments: PixelFormat.allCases)
  func everyPixelFormatShowsTheSameColours(_ format: PixelFormat) throws {
    let pinhole = try PinholeProcess()
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram())
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let picture = TestPicture.gradient.render(width: 64, height: 48, frame: 3)
    let pages = try driver.ram.allocate(bytes: 64 * 48 * 4)
    let bytes = picture.pixels.flatMap { pixel in
      "\(format)".compactMap { letter -> UInt8? in
        switch letter {
        case "r": UInt8(pixel >> 16 & 255)
        case "g": UInt8(pixel >> 8 & 255)
        case "b": UInt8(pixel & 255)
        case "a", "x": 0xff
        default: nil
        }
      }
    }
    driver.ram.write(bytes, to: pages)
    let all = Rect(width: 64, height: 48)
    try driver.perform(.create2D(1, format, width: 64, height: 48))
    try driver.perform(.attachBacking(1, pages.entries()))
    try driver.perform(.setScanout(0, resource: 1, all))
    try driver.perform(.transferToHost2D(1, all, offset: 0))
    try driver.perform(.flush(1, all))
    let shown = display.wait { state in
      guard let surface = state.surfaces[0] else { return false }
      return Raster(width: surface.width, height: surface.height, pixels: surface.pixels)
        == picture
    }
    #expect(shown)
  }

  @Test func theCursorReachesTheDisplay() throws {
    let pinhole = try PinholeProcess()
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram())
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let pages = try driver.ram.allocate(bytes: 64 * 64 * 4)
    let image = (0..<(64 * 64)).map { UInt32($0) &* 2_654_435_761 }
    image.withUnsafeBytes { driver.ram.write($0, to: pages) }
    let all = Rect(width: 64, height: 64)
    try driver.perform(.create2D(9, .b8g8r8a8, width: 64, height: 64))
    try driver.perform(.attachBacking(9, pages.entries()))
    try driver.perform(GPUCommand.transferToHost2D(9, all, offset: 0).fenced(1))
    try driver.run(.updateCursor(0, resource: 9, x: 5, y: 6, hotX: 1, hotY: 2))
    var wanted = FakeDisplay.Cursor()
    (wanted.x, wanted.y, wanted.hotX, wanted.hotY) = (5, 6, 1, 2)
    (wanted.visible, wanted.image) = (true, image)
    #expect(display.wait { $0.cursor == wanted }, "\(display.now.cursor)")
    try driver.run(.moveCursor(0, x: 50, y: 60))
    (wanted.x, wanted.y) = (50, 60)
    #expect(display.wait { $0.cursor == wanted }, "\(display.now.cursor)")
    try driver.run(.updateCursor(0, resource: 0, x: 50, y: 60))
    wanted.visible = false
    #expect(display.wait { $0.cursor == wanted }, "\(display.now.cursor)")
    #expect(display.now.violations == [])
  }

  @Test func aFrontEndThatLeavesAtAnyPointLeavesTheNextOneServed() throws {
    let pinhole = try PinholeProcess(["--log-level", "critical"])
    func serveOne() throws {
      let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram())
      #expect(try GPUDriver(frontEnd).displayInfo()[0].enabled)
    }
    try serveOne()
    let before = pinhole.descriptorCount
    var served = 0
    for messages in 0..<45 {
      for bytes in [0, 5, 12, 17] {
        var options = VhostUserFrontEnd.Options()
        options.cut = (messages, bytes)
        guard let frontEnd = try? VhostUserFrontEnd(path: pinhole.socket, ram: ram(), options),
          let driver = try? GPUDriver(frontEnd)
        else { continue }
        served += 1
        for _ in 0..<10 { try driver.send(.getEDID(0)) }
        try driver.kick()
      }
    }
    #expect(served > 0, "some of them come as far as their commands")
    #expect(served < 100, "and some do not")
    try serveOne()
    #expect(pinhole.child.status == nil, "\(pinhole.log)")
    var after = 0
    for _ in 0..<500 {
      after = pinhole.descriptorCount
      if after <= before { break }
      usleep(10_000)
    }
    #expect(after <= before, "descriptors leak: \(before) became \(after)")
  }

  @Test func aDisplayThatMisbehavesNeverHoldsTheGuest() throws {
    let pinhole = try PinholeProcess()
    let misdeeds: [@Sendable (inout FakeDisplay.Behaviour) -> Void] = [
      { $0.stalled = true }, { $0.silent = true },
      { $0.replyBytes = [UInt8](repeating: 0xff, count: 12) }, { $0.protocolFeatures = 0 },
      { $0.delay = 50 }, { $0.modes = [] },
    ]
    for misdeed in misdeeds {
      var options = VhostUserFrontEnd.Options()
      misdeed(&options.behaviour)
      let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram(), options)
      let driver = try GPUDriver(frontEnd)
      let frame = try Framebuffer(driver, resource: 1, width: 64, height: 64)
      try frame.show()
      for _ in 0..<20 { try frame.flush() }
    }
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram())
    let driver = try GPUDriver(frontEnd)
    #expect(try driver.displayInfo()[0].rect.width == 640)
    frontEnd.display?.closeSocket()
    let frame = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    try frame.show()
    try frame.flush()
    #expect(pinhole.child.status == nil, "\(pinhole.log)")
  }
}
