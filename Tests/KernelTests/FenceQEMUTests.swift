import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// A guest's pages and QEMU's GPU, which reads on after QEMU has let go, with real fences.
@Suite(
  .serialized,
  .enabled(
    if: access("/dev/udmabuf", R_OK | W_OK) == 0 && Vgem.isHere, "needs /dev/udmabuf and vgem"))
struct FenceQEMUTests {
  @Test(arguments: [true, false])
  func destroyedPagesWaitForQEMUsGPU(_ isSignalled: Bool) throws {
    let pinhole = try PinholeProcess([
      "--qemu-display", "dmabuf", "--scanout", "direct", "--hold-deadline",
      isSignalled ? "8000" : "2500",
    ])
    let front = try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20))
    let driver = try GPUDriver(front)
    let display = try #require(front.display)
    let buffer = try Framebuffer(driver, resource: 1, width: 320, height: 240, kind: .blob)
    try buffer.show()
    try buffer.flush()
    try #require(display.wait { $0.surfaces[0]?.dmabuf != nil }, "\(pinhole.log)")
    let shown = try #require(display.now.surfaces[0]?.dmabuf)
    let vgem = try Vgem()
    let reading = try vgem.attach(to: shown.fd.raw)
    var isDestroyed = false
    try driver.send(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    try driver.send(.unref(1)) { _ in isDestroyed = true }
    try driver.kick()
    #expect(display.wait { $0.surfaces[0]?.dmabuf == nil })
    // QEMU has answered all that was asked before these.
    for _ in 0..<2 { try driver.perform(.getDisplayInfo) }
    try driver.poll()
    #expect(!isDestroyed)
    if isSignalled { try vgem.signal(reading) }
    try driver.wait(for: "the answer to UNREF") { isDestroyed }
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
