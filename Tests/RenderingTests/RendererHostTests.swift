import Buffers
import GPUCommands
import Glibc
import GuestMemory
import Linux
import Logging
import Pixels
import Testing
import VirtioGPU

@testable import Rendering

@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct RendererHostTests {
  @Test func aPictureStaysAsItWasShown() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 0x11_2233)
    let first = try studio.show(5)
    #expect(first.buffer.fourcc == .xrgb8888)
    #expect(pixel(first, 0, 0) == 0x11_2233)
    #expect(pixel(first, 63, 31) == 0x11_2233)
    // The guest draws on at once, into a part.
    try studio.paint(5, 0x44_5566, x: 32, width: 32)
    let second = try studio.show(5, damage: Rect(x: 32, y: 0, width: 32, height: 32))
    #expect(pixel(first, 40, 5) == 0x11_2233)
    #expect(pixel(second, 40, 5) == 0x44_5566)
    #expect(pixel(second, 31, 5) == 0x11_2233)
    #expect(first.buffer.id != second.buffer.id)
  }

  /// A picture that is used again has missed what changed meanwhile.
  @Test func changesAddUp() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 1)
    var frames = [try studio.show(5)]
    for step in UInt32(1)...9 {
      let part = Rect(x: step * 6, y: 0, width: 6, height: 32)
      try studio.paint(5, step + 1, x: part.x, width: part.width)
      frames = [try studio.show(5, damage: part)]
      for column in 0...step { #expect(pixel(frames[0], column * 6, 9) == column + 1) }
      #expect(pixel(frames[0], 63, 9) == (step < 9 ? 1 : 1))
    }
  }

  @Test func aShowWaitsForAFreePicture() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 1)
    var held = try (0..<6).map { _ in try studio.show(5) }
    #expect(Set(held.map(\.buffer.id)).count == 6)
    try studio.paint(5, 2)
    var fourth: HostFrame?
    studio.host.perform(.show(resource: 5, output: 0, crop: Studio.all, damage: Studio.all)) {
      if case .success(.shown(let frame)) = $0 { fourth = frame }
    }
    #expect(try studio.perform(.fence(context: 0, ring: nil)).isSuccess)
    #expect(fourth == nil)
    let freed = held.removeFirst().buffer.id
    try studio.turn { fourth != nil }
    #expect(fourth?.buffer.id == freed)
    #expect(fourth.flatMap { pixel($0, 3, 3) } == 2)
    #expect(pixel(held[0], 3, 3) == 1)
  }

  @Test func anotherResourceOrSizeIsAllNew() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.picture(6, format: 67)
    try studio.paint(5, 0xaa_0000)
    _ = try studio.show(5)
    try studio.paint(6, 0x00_00bb)
    let other = try studio.show(6, damage: Rect(x: 0, y: 0, width: 1, height: 1))
    #expect(other.buffer.fourcc == .abgr8888)
    #expect(pixel(other, 50, 20) == 0x00_00bb)
    let part = try studio.show(6, crop: Rect(x: 8, y: 8, width: 16, height: 8))
    #expect((part.buffer.width, part.buffer.height) == (16, 8))
    #expect(pixel(part, 15, 7) == 0x00_00bb)
  }

  @Test func whatCannotBeShownIsRefused() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 0x77_8899)
    for (id, crop) in [
      (9, Studio.all), (5, Rect(x: 0, y: 0, width: 65, height: 32)),
      (5, Rect(x: 0, y: 0, width: 0, height: 0)),
      (5, Rect(x: .max, y: .max, width: 64, height: 32)),
    ] as [(UInt32, Rect)] {
      let result = try studio.perform(.show(resource: id, output: 0, crop: crop, damage: crop))
      #expect(result.failure == .refused, "\(id) \(crop)")
    }
    #expect(studio.deaths.isEmpty)
    // Nothing was drawn for the last of these, so that all is, whatever has changed since.
    let next = try studio.show(5, damage: Rect(x: 0, y: 0, width: 1, height: 1))
    #expect(pixel(next, 9, 9) == 0x77_8899)
  }

  @Test func cursorsAreRead() throws {
    let studio = try Studio()
    try studio.picture(5, format: 1)
    try studio.paint(5, 0x80_00_00_ff)
    let reply = try studio.perform(.readPixels(resource: 5, width: 64, height: 32)).get()
    guard case .pixels(let bytes) = reply else { throw Errno(EPROTO, "read") }
    #expect(bytes.count == 64 * 32 * 4)
    #expect(Array(bytes.suffix(4)) == [0xff, 0, 0, 0x80])
    #expect(
      try studio.perform(.readPixels(resource: 5, width: 4096, height: 1)).failure == .refused)
  }

  @Test func picturesOutliveTheirRenderer() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 0x12_3456)
    let shown = try studio.show(5)
    var waiting: RenderFailure?
    kill(CInt(bitPattern: studio.host.pid), SIGKILL)
    studio.host.perform(.fence(context: 0, ring: nil)) { waiting = $0.failure }
    try studio.turn { studio.deaths.count == 1 }
    #expect(waiting == .lost)
    #expect(pixel(shown, 9, 9) == 0x12_3456)
    try studio.turn { studio.host.isAlive }
    // Nothing is there any more, and everything can be made again.
    #expect(try studio.perform(.destroyResource(5)).failure == .refused)
    try studio.picture(5)
    try studio.paint(5, 0x65_4321)
    #expect(pixel(try studio.show(5), 9, 9) == 0x65_4321)
    studio.host.reset()
    #expect(studio.deaths.count == 1)
    #expect(try studio.perform(.destroyResource(5)).failure == .refused)
    try studio.picture(5)
    #expect(pixel(shown, 9, 9) == 0x12_3456)
  }

  /// Guest memory is mapped by the renderer as long as a resource has pages in it.
  @Test func guestMemoryIsLetGo() throws {
    let studio = try Studio()
    func maps() -> Bool {
      wholeText("/proc/\(studio.host.pid)/maps").contains("studio")
    }
    try studio.picture(5)
    try studio.picture(6)
    #expect(maps())
    _ = try studio.perform(.destroyResource(5))
    #expect(maps())
    _ = try studio.perform(.detachBacking(6))
    _ = try studio.perform(.fence(context: 0, ring: nil))
    #expect(!maps())
  }
}
