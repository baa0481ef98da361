import Buffers
import Glibc
import Linux
import PinholeFrames
import Scene
import Testing

@testable import FrameServer

@Suite struct FrameListenerTests {
  private func temporaryPath() -> String {
    "/tmp/pinhole-frames-\(getpid())-\(Clock.now).sock"
  }

  private func mode(_ path: String) -> mode_t? {
    var facts = stat()
    return lstat(path, &facts) == 0 ? facts.st_mode : nil
  }

  @Test func consumersConnectToAPathOfTheOwnerAlone() throws {
    let path = temporaryPath()
    let bench = try FrameBench()
    try bench.server.listen(path)
    #expect(mode(path) == S_IFSOCK | 0o600)
    let consumer = try FrameConsumer(path: path)
    try bench.turn()
    #expect(try consumer.next(timeout: 0)?.description.hasPrefix("connected version 1") == true)
    bench.server.close()
    #expect(mode(path) == nil)
  }

  /// Whatever the umask is: the kernel decides who may connect.
  @Test func theGroupIsTheOneThatWasNamed() throws {
    let path = temporaryPath()
    let bench = try FrameBench()
    let mask = umask(0o077)
    defer { umask(mask) }
    try bench.server.listen(path, access: .group(getegid()))
    var facts = stat()
    #expect(lstat(path, &facts) == 0)
    #expect(facts.st_mode == S_IFSOCK | 0o660 && facts.st_gid == getegid())
  }

  @Test(.enabled(if: geteuid() != 0, "root may name any group"))
  func aGroupOfOthersIsRefused() throws {
    let path = temporaryPath()
    let bench = try FrameBench()
    #expect(throws: ListenError.self) {
      try bench.server.listen(path, access: .group(UInt32.max - 7))
    }
    #expect(mode(path) == nil)
  }

  /// A dangling or hostile link in the path's place is not followed.
  @Test func aLinkIsNotFollowed() throws {
    let (path, target) = (temporaryPath(), temporaryPath() + ".target")
    _ = try OwnedFD.open(target, O_CREAT | O_RDWR, mode: 0o600)
    #expect(symlink(target, path) == 0)
    defer { for file in [path, target] { unlink(file) } }
    let bench = try FrameBench()
    #expect(throws: ListenError.self) { try bench.server.listen(path, access: .anyone) }
    #expect(mode(target) == S_IFREG | 0o600)
  }

  /// Nobody waits for a listener that does not accept.
  @Test func aFullBacklogIsInUse() throws {
    let path = temporaryPath()
    let listener = try UnixSocket.listen(path, kind: .seqpacket, backlog: 0)
    defer { unlink(path) }
    let first = try UnixSocket.connect(path, kind: .seqpacket)
    let bench = try FrameBench()
    #expect(throws: ListenError.self) { try bench.server.listen(path) }
    #expect(mode(path) != nil)
    withExtendedLifetime((listener.raw, first.raw)) {}
  }

  /// SO_PASSRIGHTS.
  private static let passRights: CInt = 83

  /// Whether a socket here can refuse descriptors.
  private static let canRefuse: Bool = {
    guard let socket = try? UnixSocket.Pair(.seqpacket) else { return false }
    var can = false
    socket.split {
      let first = consume $0
      var off: CInt = 0
      can = setsockopt(first.raw, SOL_SOCKET, passRights, &off, 4) == 0
      _ = consume $1
    }
    return can
  }()

  @Test(.enabled(if: canRefuse, "needs SO_PASSRIGHTS, Linux 6.16"))
  func descriptorsForTheCopySocketAreRefused() throws {
    let path = temporaryPath()
    let bench = try FrameBench()
    try bench.server.listen(path, access: .anyone, copiesOnly: true)
    #expect(mode(path) == S_IFSOCK | 0o666)
    let stranger = try UnixSocket.connect(path, kind: .seqpacket)
    #expect(throws: Errno(EPERM, "sendmsg")) {
      try [UInt8(1)].withUnsafeBytes {
        try UnixSocket.send(stranger.raw, $0, fds: [stranger.raw], dontWait: true)
      }
    }
  }

  @Test func aSocketLeftBehindIsReplaced() throws {
    let path = temporaryPath()
    do { _ = try UnixSocket.listen(path, kind: .seqpacket) }
    #expect(mode(path) != nil)
    let bench = try FrameBench()
    try bench.server.listen(path)
    let consumer = try FrameConsumer(path: path)
    try bench.turn()
    #expect(try consumer.next(timeout: 0) != nil)
  }

  @Test func aSocketInUseAndAFileAreLeftAlone() throws {
    let path = temporaryPath()
    let first = try FrameBench()
    try first.server.listen(path)
    let second = try FrameBench()
    var text = ""
    do {
      try second.server.listen(path)
    } catch {
      text = "\(error)"
    }
    #expect(text.contains(path) && text.contains("another process listens"))
    #expect(mode(path) != nil)
    first.server.close()
    let file = try OwnedFD.open(path, O_CREAT | O_RDWR)
    #expect(throws: ListenError.self) { try second.server.listen(path) }
    #expect(mode(path).map { $0 & S_IFMT } == S_IFREG)
    _ = consume file
    unlink(path)
  }

  @Test func aPathThatCannotBeIsExplained() throws {
    let bench = try FrameBench()
    #expect(throws: ListenError.self) { try bench.server.listen("/nonexistent/x") }
    #expect(throws: ListenError.self) {
      try bench.server.listen("/tmp/" + String(repeating: "x", count: 200))
    }
  }
}
