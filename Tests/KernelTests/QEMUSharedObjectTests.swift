import Buffers
import FakeGuest
import Glibc
import Linux
import Testing

/// `RESOURCE_ASSIGN_UUID` through the real QEMU: another vhost-user device asks for the guest's
/// picture by name.
@Suite(
  "Another device behind QEMU asks for a picture", .serialized,
  .enabled(if: udmabufProblem == nil, "needs /dev/udmabuf and userfaultfd"),
  .enabled(if: (QEMUProcess.majorVersion ?? 0) >= 10, "needs QEMU 10"))
struct QEMUSharedObjectTests {
  private static let width = 256
  private static let height = 64

  private let colours = TestPicture.gradient.render(width: width, height: height)
  private let other = TestPicture.checker.render(width: width, height: height)

  private final class Machine {
    let pinhole: PinholeProcess
    let backEnd: OtherBackEnd
    let pci: QTestPCI
    let driver: GPUDriver
    private var lastResource: UInt32 = 0

    init() throws {
      pinhole = try PinholeProcess(["--scanout", "direct"])
      backEnd = try OtherBackEnd()
      var options = QEMUProcess.Options()
      options.devices = ["vhost-user-gpu-pci,chardev=gpu", "vhost-user-rng-pci,chardev=other"]
      options.arguments = [
        "-chardev", "socket,id=gpu,path=\(pinhole.socket)",
        "-chardev", "socket,id=other,path=\(backEnd.path)",
      ]
      pci = try QTestPCI(QEMUProcess(options))
      driver = try GPUDriver(pci)
    }

    /// Asks for a name until QEMU knows it.
    private func lookUp(_ name: [UInt8]) throws -> SharedFD? {
      let pid = pci.qemu.child.pid
      let before = Set(dmaBufs(of: pid))
      for _ in 0..<10 {
        let answer = try #require(backEnd.lookUp(name), "\(pci.qemu.log)")
        if answer.status != 0 {
          usleep(10_000)
          continue
        }
        // QEMU 10 attaches the descriptor to a socket of its own and not to the answer, and its
        // next message there drops it: it is taken where QEMU left it.
        if let fd = answer.fd { return fd }
        let left = try #require(dmaBufs(of: pid).first { !before.contains($0) })
        return try descriptor(left, of: pid)
      }
      return nil
    }

    /// Shows a picture, names it, does something, and has the other device ask for it.
    ///
    /// QEMU 10 keeps a pointer to its stack as the name in its table, so that it finds most
    /// objects for a moment only: there may be more than one attempt.
    func shared(
      _ picture: Raster, then change: (Framebuffer) throws -> Void = { _ in }
    ) throws -> (frame: Framebuffer, fd: SharedFD) {
      for _ in 0..<20 {
        lastResource += 1
        let frame = try Framebuffer(
          driver, resource: lastResource, width: width, height: height,
          placement: .scattered(seed: UInt64(lastResource)))
        frame.draw(picture)
        try frame.show()
        try frame.flush()
        try change(frame)
        if let fd = try lookUp(driver.assignUUID(lastResource)) { return (frame, fd) }
        try driver.perform(.unref(lastResource))
      }
      throw GuestError.unsupported("QEMU never finds the object: \(pci.qemu.log) \(pinhole.log)")
    }

    func discard(_ frame: Framebuffer) throws {
      let balloon = try FakeGuest.Puncher(pci.ram.fd.raw)
      for run in frame.pages.entries() {
        let offset = try #require(pci.ram.fileOffset(ofGuest: run.address))
        try balloon.discard(offset: offset, count: UInt64(run.length))
      }
    }

    func end() {
      #expect(pinhole.terminate() == 0, "\(pinhole.log)")
      #expect(pinhole.log.contains("errors 0,"), "\(pinhole.log)")
    }
  }

  private func pixels(_ fd: SharedFD) throws -> [UInt8] {
    try DmaBufView(fd).read { Array($0.prefix(Self.width * Self.height * 4)) }
  }

  private func pixels(_ frame: Framebuffer, of machine: Machine) -> [UInt8] {
    machine.pci.ram.read(frame.pages, count: Self.width * Self.height * 4)
  }

  @Test("It gets the guest's own pages")
  func found() throws {
    let machine = try Machine()
    let (frame, fd) = try machine.shared(colours)
    #expect(frame.contents == colours)
    #expect(try pixels(fd) == pixels(frame, of: machine))
    frame.draw(other)
    #expect(try pixels(fd) == pixels(frame, of: machine), "it is no copy")
    machine.end()
  }

  @Test("It gets the new pages of a picture that was discarded and drawn anew")
  func discarded() throws {
    let machine = try Machine()
    let (frame, fd) = try machine.shared(colours) { frame in
      try machine.discard(frame)
      frame.draw(other)
    }
    #expect(frame.contents == other)
    #expect(try pixels(fd) == pixels(frame, of: machine))
    machine.end()
  }

  @Test("It gets nothing for a name that nobody has")
  func unknown() throws {
    let machine = try Machine()
    let answer = try #require(machine.backEnd.lookUp([UInt8](repeating: 7, count: 16)))
    #expect(answer.status != 0)
    #expect(answer.fd == nil)
    machine.end()
  }
}
