import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// What QEMU has not read yet is in memory that the socket refers to, and the guest draws on.
@Suite("A display that reads late", .serialized)
struct LateReaderTests {
  private static let frames: UInt32 = 24
  private static let size = (width: 1920, height: 1080)

  /// What the display was given, and what of it was no flushed frame.
  private struct Seen: Sendable {
    var updates = 0
    var last: UInt32 = 0
    var torn: [String] = []
  }

  @Test(
    "Each picture is one that was flushed, whatever is drawn meanwhile",
    arguments: [false, true], [5, 30] as [UInt32])
  func everyPicture(flips: Bool, lateness: UInt32) throws {
    try play(flips: flips, lateness: lateness, hugePageSize: 0)
  }

  @Test(
    "The same in huge pages",
    .enabled(if: freeHugePages >= 40, "needs 40 free huge pages"),
    arguments: [false, true])
  func everyPictureInHugePages(flips: Bool) throws {
    try play(flips: flips, lateness: 30, hugePageSize: 2 << 20)
  }

  /// Frames of one colour each, so that a single pixel of another one shows.
  ///
  /// - Parameter lateness: of the display, in milliseconds.
  private func play(flips: Bool, lateness: UInt32, hugePageSize: UInt64) throws {
    let pinhole = try PinholeProcess()
    let ram = try GuestRAM(
      size: 64 << 20, regions: GuestRAM.pcRegions(size: 64 << 20), hugePageSize: hugePageSize)
    let seen = Locked(Seen())
    var options = VhostUserFrontEnd.Options()
    options.behaviour.lateness = lateness
    options.behaviour.inspects = { pixels in
      let first = pixels.first ?? 0
      let other = pixels.firstIndex { $0 != first }
      seen.withLock {
        $0.updates += 1
        if let other { $0.torn.append("\(first), and \(pixels[other]) from pixel \(other) on") }
        if first < $0.last { $0.torn.append("\(first) after \($0.last)") }
        $0.last = first
      }
    }
    let frontEnd = try VhostUserFrontEnd(path: pinhole.socket, ram: ram, options)
    let display = try #require(frontEnd.display)
    let driver = try GPUDriver(frontEnd)
    let buffers = try (1...(flips ? 2 : 1)).map {
      try Framebuffer(
        driver, resource: UInt32($0), width: Self.size.width, height: Self.size.height)
    }
    for number in 1...Self.frames {
      let buffer = buffers[Int(number) % buffers.count]
      buffer.draw(
        Raster(
          width: Self.size.width, height: Self.size.height,
          pixels: [UInt32](repeating: number, count: Self.size.width * Self.size.height)))
      // Unfenced: the guest draws on as soon as it has the answer, which does not wait for QEMU.
      if flips || number == 1 { try buffer.show() }
      try buffer.flush()
    }
    #expect(display.wait(milliseconds: 20_000) { _ in seen.withLock { $0.last } == Self.frames })
    let all = seen.withLock { $0 }
    #expect(all.torn == [])
    #expect(all.updates > 1 && all.updates <= Int(Self.frames), "\(all.updates) updates")
    #expect(display.now.violations == [])
  }
}
