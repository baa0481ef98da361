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

  private func pinhole(_ options: [String]) throws -> (PinholeProcess, Framebuffer, String) {
    let folder = try TemporaryDirectory()
    let copies = folder.path + "-copies"
    let pinhole = try PinholeProcess(["--copy-socket", copies] + options)
    // The directory of the sockets is its owner's: let others pass.
    let directory = pinhole.framesSocket.split(separator: "/").dropLast().joined(separator: "/")
    chmod("/" + directory, 0o711)
    let ram = try GuestRAM(size: 16 << 20)
    let driver = try GPUDriver(try VhostUserFrontend(path: pinhole.socket, ram: ram))
    let buffer = try Framebuffer(driver, resource: 1, width: 64, height: 64)
    try buffer.show()
    try buffer.flush()
    return (pinhole, buffer, copies)
  }

  @Test func strangersReachNothingUnlessTheyAreNamed() throws {
    let (pinhole, guest, copies) = try pinhole([])
    defer { withExtendedLifetime(guest) {} }
    for socket in [pinhole.framesSocket, copies] {
      #expect(mode(socket) == 0o600)
      let (text, status) = try look(socket)
      #expect(status == 1)
      #expect(text.contains("Permission denied"), "\(text)")
      // Even where the path can be reached, the peer's user is looked at.
      chmod(socket, 0o666)
      let (answer, refused) = try look(socket)
      #expect(refused == 1)
      #expect(answer.contains("DENIED: user \(Self.stranger) may not look"), "\(answer)")
    }
    #expect(pinhole.terminate() == 0)
    #expect(mode(copies) == 0, "the socket was left behind")
  }

  @Test func allowedUsersReachBothSockets() throws {
    let (pinhole, guest, copies) = try pinhole(["--allow-uid", "\(Self.stranger)"])
    defer { withExtendedLifetime(guest) {} }
    for socket in [pinhole.framesSocket, copies] {
      let (text, status) = try look(socket)
      #expect(status == 0, "\(text)")
      #expect(text.contains("frame 0 serial 1"), "\(text)")
    }
    #expect(pinhole.terminate() == 0)
  }

  @Test func copyUsersGetCopiesAlone() throws {
    let (pinhole, guest, copies) = try pinhole(["--allow-copy-uid", "\(Self.stranger)"])
    defer { withExtendedLifetime(guest) {} }
    #expect(mode(pinhole.framesSocket) == 0o600)
    let (text, status) = try look(copies)
    #expect(status == 0, "\(text)")
    #expect(text.contains(" copy\n") && !text.contains("dma-buf"), "\(text)")
    chmod(pinhole.framesSocket, 0o666)
    #expect(try look(pinhole.framesSocket).0.contains("DENIED"))
    #expect(pinhole.terminate() == 0)
  }
}
