import CLinux
import Glibc
import Linux
import Testing

@Suite struct SocketTests {
  private func send(_ end: End, _ bytes: [UInt8], fds: [CInt] = []) throws -> Int {
    try bytes.withUnsafeBytes { try UnixSocket.send(end.raw, $0, fds: fds, dontWait: true) }
  }

  private func receive(
    _ end: End, room: Int = 64, maxFDs: Int = 8
  ) throws -> (bytes: [UInt8], fds: [CInt], truncated: Bool) {
    var bytes = [UInt8](repeating: 0, count: room)
    var fds: [CInt] = []
    let received = try bytes.withUnsafeMutableBytes {
      try UnixSocket.receive(end.raw, into: $0, fds: &fds, maxFDs: maxFDs, dontWait: true)
    }
    return (Array(bytes[..<received.count]), fds, received.truncated)
  }

  @Test(arguments: [UnixSocket.Kind.stream, .seqpacket])
  func descriptorsTravelWithTheirBytes(_ kind: UnixSocket.Kind) throws {
    let (a, b) = try pair(kind)
    let files = try [4096, 8192].map { SharedFD(try MemFD.create("file", size: $0)) }
    #expect(try send(a, [1, 2, 3], fds: files.map(\.raw)) == 3)
    let got = try receive(b)
    defer { for fd in got.fds { close(fd) } }
    #expect(got.bytes == [1, 2, 3] && !got.truncated)
    #expect(try got.fds.map(identity) == files.map { try identity($0.raw) })
    for fd in got.fds { #expect(fcntl(fd, F_GETFD) & FD_CLOEXEC != 0) }
  }

  @Test func surplusDescriptorsAreClosedAndToldOf() throws {
    let (a, b) = try pair(.stream)
    let file = try MemFD.create("file", size: 4096)
    let inode = try identity(file.raw)
    #expect(try send(a, [1], fds: [file.raw, file.raw, file.raw]) == 1)
    let got = try receive(b, maxFDs: 1)
    defer { for fd in got.fds { close(fd) } }
    #expect(got.fds.count == 1 && got.truncated)
    let open = (0..<1024 as Range<CInt>).filter { isOpen($0) && (try? identity($0)) == inode }
    #expect(open.count == 2)
  }

  @Test func asManyAsThereIsRoomForIsNotTooMany() throws {
    let (a, b) = try pair(.seqpacket)
    let file = try MemFD.create("file", size: 4096)
    #expect(try send(a, [1], fds: [file.raw, file.raw]) == 1)
    let got = try receive(b, maxFDs: 2)
    for fd in got.fds { close(fd) }
    #expect(got.fds.count == 2 && !got.truncated)
  }

  @Test func aDatagramThatIsTooLongIsToldOf() throws {
    let (a, b) = try pair(.seqpacket)
    #expect(try send(a, Array(0..<10)) == 10)
    let got = try receive(b, room: 4)
    #expect(got.bytes == [0, 1, 2, 3] && got.truncated)
    #expect(throws: Errno(EAGAIN, "recvmsg")) { _ = try receive(b) }
  }

  @Test func theEndOfAConnectionIsZeroBytes() throws {
    let (a, b) = try pair(.stream)
    #expect(throws: Errno(EAGAIN, "recvmsg")) { _ = try receive(b) }
    a.close()
    let got = try receive(b)
    #expect(got.bytes.isEmpty && got.fds.isEmpty && !got.truncated)
    // An error instead of a signal that ends the process.
    #expect(throws: Errno(EPIPE, "sendmsg")) { _ = try send(b, [1]) }
  }

  @Test func aFullSocketDoesNotBlock() throws {
    let (a, b) = try pair(.stream)
    let piece = [UInt8](repeating: 7, count: 4096)
    var sent = 0
    #expect(throws: Errno(EAGAIN, "sendmsg")) {
      while true { sent += try send(a, piece) }
    }
    var got = 0
    while let more = try? receive(b, room: 65536).bytes.count, more > 0 { got += more }
    #expect(got == sent && sent > 0)
  }

  @Test func peersAreKnown() throws {
    let (a, _b) = try pair(.stream)
    defer { _b.close() }
    let peer = try UnixSocket.peer(of: a.raw)
    #expect(peer.pid == getpid() && peer.uid == getuid() && peer.gid == getgid())
    #expect(UnixSocket.isSocket(a.raw, kind: .stream))
    #expect(!UnixSocket.isSocket(a.raw, kind: .seqpacket))
    let event = try EventFD()
    #expect(!UnixSocket.isSocket(event.fd.raw, kind: .stream))
  }

  /// Whoever connects can pass nothing, accepted or not; he can talk.
  @Test func descriptorsAreRefusedBeforeAnybodyIsAccepted() throws {
    let path = "/tmp/pinhole-linux-refuse-\(getpid())"
    unlink(path)
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: .stream, takesDescriptors: false)
    let (probe, _) = try pair(.stream)
    // Linux 6.16; an older one takes them, and they are closed.
    guard ph_refuse_descriptors(probe.raw) == 0 else { return }
    let client = try UnixSocket.connect(path, kind: .stream)
    let event = try EventFD()
    let raw = client.raw
    func say(_ fds: [CInt]) throws -> Int {
      try [UInt8(1)].withUnsafeBytes { try UnixSocket.send(raw, $0, fds: fds) }
    }
    #expect(throws: Errno(EPERM, "sendmsg")) { _ = try say([event.fd.raw]) }
    #expect(try say([]) == 1)
    _ = listener.raw
  }

  @Test func listeningAndConnecting() throws {
    let path = "/tmp/pinhole-linux-tests-\(getpid())"
    unlink(path)
    defer { unlink(path) }
    #expect(throws: Errno(ENOENT, "connect")) { _ = try UnixSocket.connect(path, kind: .stream) }
    let listener = SharedFD(try UnixSocket.listen(path, kind: .stream))
    var facts = stat()
    #expect(lstat(path, &facts) == 0 && facts.st_mode & 0o777 == 0o600)
    #expect(throws: Errno(EAGAIN, "accept4")) { _ = try UnixSocket.accept(listener.raw) }
    let client = try UnixSocket.connect(path, kind: .stream)
    let server = try UnixSocket.accept(listener.raw)
    #expect(try UnixSocket.peer(of: server.raw).pid == getpid())
    #expect(throws: Errno(EADDRINUSE, "bind")) { _ = try UnixSocket.listen(path, kind: .stream) }
    let long = "/tmp/" + String(repeating: "x", count: 200)
    #expect(throws: Errno(ENAMETOOLONG, "bind")) { _ = try UnixSocket.listen(long, kind: .stream) }
    _ = client.raw
  }
}
