import FakeGuest
import Glibc
import Linux
import Pixels
import Testing

/// QEMU's OpenGL display shows the guest's pages themselves; `Tests/qemu-dmabuf` prepares it.
@Suite(
  .serialized,
  .enabled(if: getenv("PINHOLE_GL_NODE") != nil, "needs a render node; run Tests/qemu-dmabuf"))
struct QEMUDmabufTests {
  private static let width = 320
  private static let height = 240

  /// What QEMU read back from its OpenGL display: the memfd behind a console's surface.
  ///
  /// `screendump` knows of no surface while a dma-buf is shown.
  private func surfaces(of qemu: QEMUProcess) -> [Raster] {
    var found: [Raster] = []
    var text = [CChar](repeating: 0, count: 256)
    for number in 0..<512 {
      let path = "/proc/\(qemu.child.pid)/fd/\(number)"
      let count = readlink(path, &text, text.count)
      let link = String(
        decoding: text.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      guard link.contains("displaysurface"), let bytes = try? WholeFile.read(path),
        bytes.count == Self.width * Self.height * 4
      else { continue }
      let pixels = stride(from: 0, to: bytes.count, by: 4).map {
        UInt32(bytes[$0]) | UInt32(bytes[$0 + 1]) << 8 | UInt32(bytes[$0 + 2]) << 16
      }
      found.append(Raster(width: Self.width, height: Self.height, pixels: pixels))
    }
    return found
  }

  private func difference(_ qemu: QEMUProcess, _ picture: Raster) -> String? {
    var last: String? = "QEMU has no surface of \(Self.width)x\(Self.height)"
    for _ in 0..<400 {
      for surface in surfaces(of: qemu) {
        last = surface.difference(from: picture)
        if last == nil { return nil }
      }
      if let status = qemu.child.status { return "QEMU ended with \(status)" }
      usleep(50_000)
    }
    return last
  }

  @Test("QEMU imports pictures, redrawn, discarded, of another buffer, and pixels in between")
  func pages() throws {
    let pinhole = try PinholeProcess([
      "--qemu-display", "dmabuf", "--scanout", "direct", "--log-level", "debug",
    ])
    var options = QEMUProcess.Options()
    options.devices = ["vhost-user-gpu-pci,chardev=gpu"]
    options.arguments = ["-chardev", "socket,id=gpu,path=\(pinhole.socket)"]
    let node = getenv("PINHOLE_GL_NODE").map { String(cString: $0) } ?? ""
    options.display = "egl-headless,rendernode=\(node)"
    let pci = try QTestPCI(QEMUProcess(options))
    let driver = try GPUDriver(pci)
    let frame = try Framebuffer(
      driver, resource: 1, width: Self.width, height: Self.height, placement: .contiguous())
    func check(_ number: Int, _ comment: Comment) {
      let picture = TestPicture.checker.render(
        width: Self.width, height: Self.height, frame: number)
      #expect(
        difference(pci.qemu, picture) == nil, "\(comment): \(pinhole.log) \(pci.qemu.log)")
    }
    func imports() -> [Substring] {
      pinhole.log.matches(of: #/QEMU imports buffer (\S+)/#).map(\.output.1)
    }
    func draw(_ number: Int) throws {
      frame.draw(
        TestPicture.checker.render(width: Self.width, height: Self.height, frame: number))
      try frame.flush()
    }
    frame.draw(TestPicture.checker.render(width: Self.width, height: Self.height, frame: 1))
    try frame.show()
    try frame.flush()
    check(1, "a new buffer")
    #expect(imports() == ["1.1"])
    try draw(2)
    check(2, "drawn in place")
    let balloon = try FakeGuest.Puncher(pci.ram.fd.raw)
    for run in frame.pages.entries() {
      let offset = try #require(pci.ram.fileOffset(ofGuest: run.address))
      try balloon.discard(offset: offset, count: UInt64(run.length))
    }
    try draw(3)
    check(3, "discarded and drawn")
    #expect(imports().count == 2, "\(pinhole.log)")
    try pci.qemu.monitor.run("stop")
    try pci.qemu.monitor.run("cont")
    try draw(4)
    check(4, "after stop and cont")
    try driver.perform(.setScanout(0, resource: 0, Rect(width: 0, height: 0)))
    try frame.remove()
    #expect(pci.qemu.child.status == nil, "\(pci.qemu.log)")
    #expect(!pinhole.log.contains("does not answer"), "\(pinhole.log)")
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
