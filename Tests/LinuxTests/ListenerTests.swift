import Glibc
import Linux
import Testing

struct ListenerTests {
  /// A loop, and those that a listener was given.
  private final class Rig {
    let loop: EventLoop
    let path = "/tmp/pinhole-listen-\(getpid())-\(Clock.now).sock"
    var came: [SharedFD] = []

    init() throws { loop = try EventLoop() }

    func listen(_ place: Listener.Place, isCrowd: Bool = false) throws -> Listener {
      let listener = try Listener(place, isCrowd: isCrowd, on: loop)
      listener.connected = { [unowned self] in came.append(SharedFD($0)) }
      return listener
    }

    func turn() throws { for _ in 0..<4 { try loop.turn(timeout: 0) } }

    /// Whether a path is there.
    var isThere: Bool { access(path, F_OK) == 0 }
  }

  private func error(_ place: Listener.Place) throws -> Errno? {
    let rig = try Rig()
    do throws(ListenError) {
      _ = try Listener(place, on: rig.loop)
      return nil
    } catch { return error.error }
  }

  @Test(arguments: ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "2001:db8::1", "128.0.0.1"])
  func othersCannotBeListenedFor(address: String) throws {
    #expect(try error(.loopback(address, port: 0)) == Errno(EADDRNOTAVAIL, "bind"))
  }

  @Test(arguments: ["", "localhost", "127.0.0.1.5", "example.org", "127.1"])
  func namesAreNoAddresses(address: String) throws {
    #expect(try error(.loopback(address, port: 0)) == Errno(EINVAL, "bind"))
  }

  @Test func aFreePortIsFound() throws {
    let rig = try Rig()
    let first = try rig.listen(.loopback("127.0.0.1", port: 0))
    #expect(first.port > 0)
    #expect(
      try error(.loopback("127.0.0.1", port: first.port)) == Errno(EADDRINUSE, "bind"))
  }

  @Test func aPathGoesWithItsOwner() throws {
    let rig = try Rig()
    do {
      let first = try rig.listen(.path(rig.path, .stream))
      #expect(first.port == 0)
      #expect(try error(.path(rig.path, .stream)) == Errno(EADDRINUSE, "bind"))
      let guest = try UnixSocket.connect(rig.path, kind: .stream, patience: 0)
      try rig.turn()
      // The other one looked whether somebody listens.
      #expect(rig.came.count == 2)
      _ = guest
    }
    #expect(!rig.isThere)
  }

  @Test("What nobody listens on is replaced; what is no socket, or is somebody else's, is left")
  func whoseAPathIs() throws {
    let rig = try Rig()
    do { _ = try UnixSocket.listen(rig.path, kind: .stream) }
    #expect(rig.isThere)
    do {
      let listener = try rig.listen(.path(rig.path, .stream))
      // Somebody takes the path away, and listens there.
      unlink(rig.path)
      let other = try UnixSocket.listen(rig.path, kind: .stream)
      listener.stop()
      #expect(rig.isThere)
      unlink(rig.path)
      _ = other
    }
    _ = try OwnedFD.open(rig.path, O_CREAT | O_RDWR, mode: 0o600)
    defer { unlink(rig.path) }
    #expect(try error(.path(rig.path, .stream)) == Errno(ENOTSOCK, "bind"))
    #expect(rig.isThere)
  }

  @Test("A pause leaves newcomers in the backlog")
  func pauses() throws {
    let rig = try Rig()
    let listener = try rig.listen(.path(rig.path, .seqpacket))
    listener.pause()
    let guest = try UnixSocket.connect(rig.path, kind: .seqpacket, patience: 0)
    try rig.turn()
    #expect(rig.came.isEmpty)
    listener.resume()
    try rig.turn()
    #expect(rig.came.count == 1)
    _ = guest
  }

  @Test("Whoever comes all the time is taken a few times a second")
  func crowds() throws {
    let rig = try Rig()
    let listener = try rig.listen(.path(rig.path, .stream), isCrowd: true)
    let start = Clock.now
    var all: [SharedFD] = []
    for _ in 0..<80 {
      // The backlog may be full.
      if let one = try? UnixSocket.connect(rig.path, kind: .stream, patience: 0) {
        all.append(SharedFD(one))
      }
      try rig.loop.turn(timeout: 0)
    }
    let refilled = Int((Clock.now - start) / 1_000_000_000 * 20) + 20
    #expect(rig.came.count > 40 && rig.came.count <= 41 + refilled)
    withExtendedLifetime((listener, all)) {}
  }

  @Test("Those of a crowd who had to wait are taken too")
  func crowdsAreTaken() throws {
    let rig = try Rig()
    let listener = try rig.listen(.path(rig.path, .stream), isCrowd: true)
    var all: [SharedFD] = []
    let deadline = Clock.now + 10_000_000_000
    while rig.came.count < 44, Clock.now < deadline {
      if all.count < 44, let one = try? UnixSocket.connect(rig.path, kind: .stream, patience: 0) {
        all.append(SharedFD(one))
      }
      try rig.loop.turn(timeout: 1)
    }
    #expect(rig.came.count == 44)
    withExtendedLifetime((listener, all)) {}
  }

  /// Whoever does not read keeps nobody waiting, what he is sent goes at once, and one that has
  /// vanished without a word is noticed some day.
  @Test func viewersByTCPAreMadeReady() throws {
    let rig = try Rig()
    let listener = try rig.listen(.loopback("127.0.0.1", port: 0))
    let viewer = OwnedFD(adopting: Glibc.socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = listener.port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    let connected = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(viewer.raw, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    try #require(connected == 0)
    let deadline = Clock.now + 10_000_000_000
    while rig.came.isEmpty, Clock.now < deadline { try rig.loop.turn(timeout: 100) }
    let came = try #require(rig.came.first)
    func option(_ level: CInt, _ name: CInt) -> CInt {
      var value: CInt = -1
      var size = socklen_t(MemoryLayout<CInt>.size)
      return getsockopt(came.raw, level, name, &value, &size) == 0 ? value : -1
    }
    #expect(UnixSocket.isNonblocking(came.raw))
    #expect(option(6, 1) == 1, "TCP_NODELAY")
    #expect(option(SOL_SOCKET, SO_KEEPALIVE) == 1)
    withExtendedLifetime(listener) {}
  }

  @Test func aFullListenerIsNotWaitedFor() throws {
    let path = "/tmp/pinhole-full-\(getpid()).sock"
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: .seqpacket, backlog: 1)
    var waiting: [SharedFD] = []
    #expect(throws: Errno(EAGAIN, "connect")) {
      for _ in 0..<16 {
        waiting.append(SharedFD(try UnixSocket.connect(path, kind: .seqpacket, patience: 0)))
      }
    }
    #expect(!waiting.isEmpty)
    // Nobody hangs on one that is stopped.
    #expect(throws: Errno(ETIMEDOUT, "connect")) {
      _ = try UnixSocket.connect(path, kind: .seqpacket, patience: 20)
    }
    // Nor is it taken for one that nobody serves.
    #expect(try error(.path(path, .seqpacket)) == Errno(EADDRINUSE, "bind"))
    _ = listener
  }

  /// Permissions are there before anybody can connect, whatever the umask, and a link is no path.
  @Test func permissionsAreThoseAskedFor() throws {
    let rig = try Rig()
    let before = umask(0o077)
    defer { umask(before) }
    let access = UnixSocket.Access.mode(0o620, group: getegid())
    let listener = try rig.listen(.path(rig.path, .seqpacket, access: access))
    var facts = stat()
    #expect(lstat(rig.path, &facts) == 0 && facts.st_mode & 0o777 == 0o620)
    listener.stop()
    let file = rig.path + ".txt"
    close(open(file, O_CREAT | O_WRONLY, 0o600))
    defer {
      unlink(file)
      unlink(rig.path)
    }
    #expect(symlink(file, rig.path) == 0)
    #expect(
      try error(.path(rig.path, .seqpacket, access: .anyone)) == Errno(ENOTSOCK, "bind"))
    #expect(stat(file, &facts) == 0 && facts.st_mode & 0o777 == 0o600)
  }

  /// `until [ -S path ]` ends when the path is bound, which is before it listens.
  @Test func aPathThatListensAMomentLaterIsReached() throws {
    var reached = false
    // A starved machine may take longer than anybody waits, once or twice.
    for _ in 0..<10 where !reached {
      let path = try Rig().path
      defer { unlink(path) }
      let socket = OwnedFD(adopting: Glibc.socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0))
      var address = sockaddr_un()
      address.sun_family = sa_family_t(AF_UNIX)
      withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
      let bound = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          bind(socket.raw, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
      try #require(bound == 0)
      #expect(throws: Errno(ECONNREFUSED, "connect")) {
        _ = try UnixSocket.connect(path, kind: .stream, patience: 0)
      }
      let raw = socket.raw
      let listener = try Linux.Thread("listens") {
        usleep(10_000)
        listen(raw, 1)
      }
      do throws(Errno) {
        _ = try UnixSocket.connect(path, kind: .stream)
        reached = true
      } catch { #expect(error.code == ECONNREFUSED) }
      _ = consume listener
    }
    #expect(reached)
  }
}
