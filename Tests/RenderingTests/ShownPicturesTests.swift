import Buffers
import Linux
import Pixels
import Testing
import VirtioGPU

@testable import Rendering

/// What becomes of the renderer's pixels on their way to whoever looks.
@Suite(.serialized, .enabled(if: hasRenderer, "libvirglrenderer or Mesa is not installed"))
struct ShownPicturesTests {
  /// Cursors are DRM_FORMAT_ARGB8888, bytes B, G, R, A, whatever the guest drew them in.
  @Test(arguments: [
    (PixelFormat.b8g8r8a8, UInt32(0x4030_2010), [UInt8]([0x10, 0x20, 0x30, 0x40])),
    (.b8g8r8x8, 0x4030_2010, [0x10, 0x20, 0x30, 0xff]),
    (.r8g8b8a8, 0x4030_2010, [0x30, 0x20, 0x10, 0x40]),
    (.r8g8b8x8, 0x4030_2010, [0x30, 0x20, 0x10, 0xff]),
  ])
  func cursorsAreOfOneFormat(_ format: PixelFormat, _ drawn: UInt32, _ seen: [UInt8]) throws {
    let studio = try Studio()
    try studio.picture(5, format: format.rawValue)
    try studio.paint(5, drawn)
    let reply = try studio.perform(.readPixels(resource: 5, width: 64, height: 32)).get()
    guard case .pixels(let bytes) = reply else { throw Errno(71, "read") }
    #expect(bytes.count == 64 * 32 * 4)
    #expect(Array(bytes.prefix(4)) == seen && Array(bytes.suffix(4)) == seen)
  }

  @Test func cursorsOfUnknownResourcesAreRefused() throws {
    let studio = try Studio()
    #expect(try studio.perform(.readPixels(resource: 9, width: 4, height: 4)).failure == .refused)
  }

  /// A renderer that is taken over could make memory smaller that nothing seals.
  @Test func memoryThatIsNotSealedIsWarnedOf() throws {
    let sealed = try Studio(seals: [.shrink])
    try sealed.picture(5)
    #expect(sealed.lines.withLock { $0 } == [])
    let studio = try Studio()
    for id: UInt32 in 5...6 { try studio.picture(id) }
    let lines = studio.lines.withLock { $0 }
    #expect(lines.count == 1)
    #expect(lines.first?.contains("not sealed") == true)
    #expect(lines.first?.contains("memory-backend-memfd") == true)
  }

  /// There is memory for one picture, and somebody holds it: the last frame is shown late, not never.
  @Test func aShowWaitsWhereThereIsNoMemoryForAnotherPicture() throws {
    let studio = try Studio()
    try studio.picture(5)
    try studio.paint(5, 1)
    studio.memory = UInt64(Studio.width * Studio.height * 4)
    var held: HostFrame? = try studio.show(5)
    #expect(studio.memory == 0 && held != nil)
    try studio.paint(5, 2)
    var late: Result<RenderReply, RenderFailure>?
    studio.host.perform(.show(resource: 5, output: 0, crop: Studio.all, damage: Studio.all)) {
      late = $0
    }
    #expect(try studio.perform(.fence(context: 0, ring: nil)).isSuccess)
    #expect(late == nil)
    held = nil
    try studio.turn { late != nil }
    guard case .success(.shown(let frame)) = late else { throw Errno(71, "show") }
    #expect(pixel(frame, 3, 3) == 2)
    // Where there is no picture at all there is nothing to wait for.
    let other = try studio.perform(
      .show(resource: 5, output: 1, crop: Studio.all, damage: Studio.all))
    #expect(other.failure == .refused)
  }
}
