import FakeGuest
import Glibc
import Linux
import Testing

/// Who may look, and at what, with programs of another user.
@Suite(
  .serialized,
  .enabled(
    if: geteuid() == 0 && access("/usr/bin/setpriv", X_OK) == 0, "needs root and setpriv(1)"))
struct FenceAccessTests {
  private static let stranger = 65534

  /// What `pinhole view --once` of another user says.
  private func look(_ socket: String) throws -> (String, CInt?) {
    let folder = try TemporaryDirectory()
    let out = try OwnedFD.open(folder.file("out"), O_WRONLY | O_CREAT | O_APPEND)
    let child = try ChildProcess(
      [
        "setpriv", "--reuid", "\(Self.stranger)", "--regid", "\(Self.stranger)", "--clear-groups",
        FakeGuest.Puncher.defaultProgram, "view", "--once", "--frames-socket", socket,
      ], fds: [(out.raw, 1), (out.raw, 2)])
    let status = child.waitForEnd(milliseconds: 30_000)
    return (String(decoding: try WholeFile.read(folder.file("out")), as: UTF8.self), status)
  }

  private func mode(_ path: String) -> mode_t {
    var facts = stat()
    return lstat(path, &facts) == 0 ? facts.st_mode & 0o777 : 0
  }

  private func pinhole(_ options: [String]) throws -> (PinholeProcess, Framebuffer) {
    let pinhole = try PinholeProcess(options)
    // The directory of the sockets is its owner's: let others pass.
    let directory = pinhole.framesSocket.split(separator: "/").dropLast().joined(separator: "/")
    chmod("/" + directory, 0o711)
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontEnd(path: pinhole.socket, ram: ram))
    let buffer = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    try buffer.flush()
    return (pinhole, buffer)
  }

  @Test func strangersReachNothing() throws {
    let (pinhole, guest) = try pinhole([])
    defer { withExtendedLifetime(guest) {} }
    let copies = pinhole.framesSocket + "-copies"
    let share = try PinholeShare(of: pinhole.framesSocket, on: copies)
    for socket in [pinhole.framesSocket, copies] {
      #expect(mode(socket) == 0o600)
      let (text, status) = try look(socket)
      #expect(status == 1)
      #expect(text.contains("Permission denied"), "\(text)")
    }
    #expect(share.terminate() == 0)
    #expect(mode(copies) == 0, "the socket was left behind")
    #expect(pinhole.terminate() == 0)
  }

  @Test func membersOfTheGroupMayLook() throws {
    let (pinhole, guest) = try pinhole(["--frames-group", "\(Self.stranger)"])
    defer { withExtendedLifetime(guest) {} }
    #expect(mode(pinhole.framesSocket) == 0o660)
    let (text, status) = try look(pinhole.framesSocket)
    #expect(status == 0, "\(text)")
    #expect(text.contains("frame 0 serial 1"), "\(text)")
    #expect(pinhole.terminate() == 0)
  }

  @Test(arguments: [["--anyone"], ["--copy-group", "65534"]])
  func whoeverIsLetInGetsCopiesAlone(_ options: [String]) throws {
    let (pinhole, guest) = try pinhole([])
    defer { withExtendedLifetime(guest) {} }
    let copies = pinhole.framesSocket + "-copies"
    let share = try PinholeShare(of: pinhole.framesSocket, on: copies, options)
    #expect(mode(copies) == (options.count == 1 ? 0o666 : 0o660))
    let (text, status) = try look(copies)
    #expect(status == 0, "\(text) \(share.log)")
    #expect(text.contains(" copy\n") && !text.contains("dma-buf"), "\(text)")
    #expect(try look(pinhole.framesSocket).0.contains("Permission denied"))
    #expect(share.terminate() == 0)
    #expect(pinhole.terminate() == 0)
  }
}
