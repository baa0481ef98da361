import Buffers
import Glibc
import Linux
import PinholeFrames
import Testing
import VirtioGPU

@testable import Display

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
    #expect(throws: FrameListenerError.self) { try second.server.listen(path) }
    #expect(mode(path).map { $0 & S_IFMT } == S_IFREG)
    _ = consume file
    unlink(path)
  }

  @Test func aPathThatCannotBeIsExplained() throws {
    let bench = try FrameBench()
    #expect(throws: FrameListenerError.self) { try bench.server.listen("/nonexistent/x") }
    #expect(throws: FrameListenerError.self) {
      try bench.server.listen("/tmp/" + String(repeating: "x", count: 200))
    }
  }
}
