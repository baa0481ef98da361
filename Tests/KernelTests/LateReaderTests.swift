import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// What QEMU has not read yet is in memory that the socket refers to, and the guest draws on.
@Suite("A display that reads late", .serialized)
struct LateReaderTests {
  /// What the display was given, and what of it was no flushed frame.
  private struct Seen: Sendable {
    var updates = 0
    var last: UInt32 = 0
    var torn: [String] = []
  }

  /// Two framebuffers in turn, or one that is drawn into while it is on screen.
  enum Drawing: CaseIterable, Sendable { case flips, inPlace, inPlaceInPieces }

  @Test(
    "Each picture is one that was flushed, whatever is drawn meanwhile",
    arguments: Drawing.allCases, [2, 5, 30] as [UInt32])
  func everyPicture(drawing: Drawing, lateness: UInt32) throws {
    try play(drawing, frames: drawing == .inPlace ? 100 : 24, lateness: lateness)
  }

  @Test("The same at 4K, where transfers are made in parts", arguments: [1, 20] as [UInt32])
  func everyPictureAt4K(lateness: UInt32) throws {
    try play(.inPlaceInPieces, (3840, 2160), frames: 8, lateness: lateness)
  }

  @Test("The same where pictures are copied into sockets", arguments: Drawing.allCases)
  func everySmallPicture(drawing: Drawing) throws {
    try play(drawing, (320, 240), frames: 100, lateness: 1)
  }

  @Test(
    "The same in huge pages",
    .enabled(if: freeHugePages >= 40, "needs 40 free huge pages"),
    arguments: Drawing.allCases)
  func everyPictureInHugePages(drawing: Drawing) throws {
    try play(drawing, lateness: 30, hugePageSize: 2 << 20)
  }

  /// Frames of one colour each, so that a single pixel of another one shows.
  ///
  /// - Parameter lateness: of the display, in milliseconds.
  private func play(
    _ drawing: Drawing, _ size: (width: Int, height: Int) = (1920, 1080), frames: UInt32 = 24,
    lateness: UInt32, hugePageSize: UInt64 = 0
  ) throws {
    let pinhole = try PinholeProcess()
    let ram = try GuestRAM(
      size: 64 << 20, regions: GuestRAM.pcRegions(size: 64 << 20), hugePageSize: hugePageSize)
    let seen = Locked(Seen())
    var options = VhostUserFrontEnd.Options()
    options.behaviour.lateness = lateness
    options.behaviour.inspects = { pixels in
      let first = pixels.first ?? 0
      let other = Self.isPlain(pixels) ? nil : pixels.firstIndex { $0 != first }
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
    let buffers = try (1...(drawing == .flips ? 2 : 1)).map {
      try Framebuffer(driver, resource: UInt32($0), width: size.width, height: size.height)
    }
    for number in 1...frames {
      let buffer = buffers[Int(number) % buffers.count]
      [UInt32](repeating: number, count: size.width * size.height).withUnsafeBytes {
        driver.ram.write($0, to: buffer.pages)
      }
      // Unfenced: the guest draws on as soon as it has the answer, which does not wait for QEMU.
      if drawing == .flips || number == 1 { try buffer.show() }
      try flush(buffer, driver, inPieces: drawing == .inPlaceInPieces)
    }
    #expect(display.wait(milliseconds: 20_000) { _ in seen.withLock { $0.last } == frames })
    let all = seen.withLock { $0 }
    #expect(all.torn == [])
    #expect(all.updates > 1 && all.updates <= Int(frames), "\(all.updates) updates")
    #expect(display.now.violations == [])
  }

  /// Whether all pixels are the same, found out fast.
  private static func isPlain(_ pixels: [UInt32]) -> Bool {
    pixels.withUnsafeBytes {
      guard let base = $0.baseAddress, $0.count > 4 else { return true }
      return memcmp(base, base + 4, $0.count - 4) == 0
    }
  }

  /// A frame of one transfer, or of two that both leave the display time to look in between.
  private func flush(_ buffer: Framebuffer, _ driver: GPUDriver, inPieces: Bool) throws {
    guard inPieces else { return try buffer.flush() }
    let (bounds, half) = (buffer.bounds, buffer.bounds.height / 2)
    let pieces = [
      Rect(width: bounds.width, height: half),
      Rect(x: 0, y: half, width: bounds.width, height: bounds.height - half),
    ]
    for piece in pieces {
      let offset = UInt64(piece.y) * UInt64(buffer.stride)
      try driver.perform(.transferToHost2D(buffer.resource, piece, offset: offset))
      usleep(3000)
    }
    try driver.perform(.flush(buffer.resource, bounds))
  }
}
