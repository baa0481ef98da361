import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// What QEMU does to a device while its guest runs: pause, memory that comes and goes, more
/// outputs than one.
@Suite struct PinholeLifeTests {
  private static let size: UInt64 = 32 << 20

  private func picture(_ state: FakeDisplay.State, _ output: UInt32 = 0) -> Raster? {
    guard let surface = state.surfaces[output], !surface.pixels.isEmpty else { return nil }
    return Raster(width: surface.width, height: surface.height, pixels: surface.pixels)
  }

  @Test func thePictureAndTheCursorAreReplayedOnANewSocket() throws {
    let pinhole = try PinholeProcess()
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    let frontEnd = try VhostUserFrontEnd(
      path: pinhole.socket, ram: GuestRAM(size: Self.size))
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    let smpte = TestPicture.smpte.render(width: 320, height: 200)
    frame.draw(smpte)
    try frame.show()
    try frame.flush()
    let cursor = try Framebuffer(driver, resource: 2, width: 64, height: 64)
    cursor.draw(TestPicture.checker.render(width: 64, height: 64))
    try cursor.flush()
    try driver.run(.updateCursor(0, resource: 2, x: 7, y: 8))
    #expect(display.wait { picture($0) == smpte && $0.cursor.visible })
    for _ in 0..<3 {
      let before = display.now
      try frontEnd.pause()
      try frontEnd.resume()
      let replayed = display.wait { now in
        (now.surfaces[0]?.changes ?? 0) > (before.surfaces[0]?.changes ?? 0)
          && (now.surfaces[0]?.updates ?? 0) > (before.surfaces[0]?.updates ?? 0)
          && (now.messages[6] ?? 0) > (before.messages[6] ?? 0)
      }
      #expect(replayed, "\(pinhole.log)")
      #expect(picture(display.now) == smpte)
      #expect(consumer.difference(from: smpte) == nil)
      #expect(display.now.cursor.image == before.cursor.image)
      #expect([display.now.cursor.x, display.now.cursor.y] == [7, 8])
    }
    let next = TestPicture.gradient.render(width: 320, height: 200)
    frame.draw(next)
    try frame.flush()
    #expect(display.wait { picture($0) == next })
    #expect(consumer.difference(from: next) == nil)
    #expect(display.now.violations == [])
  }

  @Test(arguments: [true, false])
  func afterAResetHeadsAndCursorsThatStayOffGoOff(_ closesFirst: Bool) throws {
    let pinhole = try PinholeProcess()
    var options = VhostUserFrontEnd.Options()
    options.behaviour.modes = [(320, 200), (320, 200)]
    let frontEnd = try VhostUserFrontEnd(
      path: pinhole.socket, ram: GuestRAM(size: Self.size), options)
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let smpte = TestPicture.smpte.render(width: 320, height: 200)
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    frame.draw(smpte)
    try frame.show()
    try frame.flush()
    try driver.run(.updateCursor(0, resource: 1, x: 7, y: 8))
    #expect(display.wait { picture($0) == smpte && $0.cursor.visible })
    // As QEMU does, which reads nothing more from that moment.
    if closesFirst { display.closeSocket() }
    try driver.restart()
    #expect(display.wait { $0.surfaces[0]?.width == 0 && !$0.cursor.visible }, "\(pinhole.log)")
    let other = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    other.draw(smpte)
    try driver.perform(.setScanout(1, resource: 1, other.bounds))
    try other.flush()
    #expect(display.wait { picture($0, 1) == smpte })
    #expect(display.now.surfaces[0]?.width == 0)
    #expect(display.now.violations == [])
  }

  @Test func outputsShowTheirOwnPictures() throws {
    let pinhole = try PinholeProcess()
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    var options = VhostUserFrontEnd.Options()
    options.behaviour.modes = [(640, 480), (320, 200), (800, 600)]
    let frontEnd = try VhostUserFrontEnd(
      path: pinhole.socket, ram: GuestRAM(size: Self.size), options)
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let modes = try driver.displayInfo()
    #expect(modes.map(\.enabled).prefix(4) == [true, true, true, false])
    #expect(modes[1].rect == Rect(width: 320, height: 200))
    var pictures: [Raster] = []
    for output in 0..<3 as Range<UInt32> {
      let frame = try Framebuffer(driver, resource: output + 1, width: 64, height: 32)
      pictures.append(TestPicture.pages.render(width: 64, height: 32, frame: Int(output)))
      frame.draw(pictures[Int(output)])
      try frame.show(on: output)
      try frame.flush()
    }
    for output in 0..<3 as Range<UInt32> {
      #expect(display.wait { picture($0, output) == pictures[Int(output)] }, "output \(output)")
      #expect(consumer.difference(from: pictures[Int(output)], output: output) == nil)
    }
    #expect(display.now.violations == [])
  }

  /// A scanout that shows a part of a picture, and another part of the same one.
  @Test(arguments: ["direct", "copy"])
  func outputsShowPartsOfOnePicture(_ mode: String) throws {
    let pinhole = try PinholeProcess(["--scanout", mode])
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    let frontEnd = try VhostUserFrontEnd(
      path: pinhole.socket, ram: GuestRAM(size: Self.size))
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    let whole = TestPicture.pages.render(width: 128, height: 64, frame: 5)
    let frame = try Framebuffer(driver, resource: 1, width: 128, height: 64)
    frame.draw(whole)
    for output in 0..<2 as Range<UInt32> {
      try driver.perform(
        .setScanout(output, resource: 1, Rect(x: 64 * output, y: 8, width: 64, height: 32)))
    }
    try frame.flush()
    for output in 0..<2 {
      let part = Raster(
        width: 64, height: 32,
        pixels: (0..<(64 * 32)).map { whole[64 * output + $0 % 64, 8 + $0 / 64] })
      #expect(display.wait { picture($0, UInt32(output)) == part }, "output \(output)")
      #expect(consumer.difference(from: part, output: UInt32(output)) == nil)
    }
    #expect(display.now.violations == [])
  }

  @Test(arguments: ["direct", "copy"])
  func memoryUnderThePictureComesAndGoes(_ mode: String) throws {
    let pinhole = try PinholeProcess(["--scanout", mode])
    let consumer = try FrameWatcher(path: pinhole.framesSocket)
    let half = Self.size / 2
    let regions = [
      GuestRAM.Region(guestAddress: 0, size: half, fileOffset: 0),
      GuestRAM.Region(guestAddress: 1 << 32, size: half, fileOffset: half),
    ]
    let ram = try GuestRAM(size: Self.size, regions: regions)
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram)
    let driver = try GPUDriver(frontEnd)
    let display = try #require(frontEnd.display)
    // Fill what is left of the low half, so that the picture lies in the high one.
    let low = ram.freePages - Int(half / 4096) - 16
    _ = try ram.allocate(pages: low - 300)
    let frame = try Framebuffer(driver, resource: 1, width: 640, height: 480)
    try #require(frame.pages.start >= 1 << 32)
    for round in 0..<3 {
      let drawn = TestPicture.checker.render(width: 640, height: 480, frame: round)
      frame.draw(drawn)
      try frame.show()
      try frame.flush()
      #expect(display.wait { picture($0) == drawn })
      #expect(consumer.difference(from: drawn) == nil)
      try frontEnd.removeMemory(regions[1])
      // Whatever the answer, there is one, and the guest's other memory works.
      _ = try driver.run(.flush(1, frame.bounds))
      let other = try ram.allocate(pages: 1)
      #expect(try driver.run(.attachBacking(1, frame.pages.entries())).response.isOK == false)
      ram.free(other)
      #expect(try driver.displayInfo()[0].enabled)
      try frontEnd.addMemory(regions[1])
      try driver.perform(.detachBacking(1))
      try driver.perform(.attachBacking(1, frame.pages.entries()))
    }
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
