import Glibc
import GuestMemory
import Linux
import Logging
import Testing
import VhostUser

@Suite("One front-end after another")
struct ServerTests {
  final class House {
    let device = FakeDevice()
    let loop: EventLoop
    let log = LogBook.Lines()
    let path: String
    var reasons: [VhostUserError] = []

    init() throws {
      loop = try EventLoop()
      path = "/tmp/vhost-user-test-\(getpid())-\(UInt32.random(in: 0...UInt32.max)).sock"
    }

    deinit { unlink(path) }

    func server() -> VhostUserServer {
      let server = VhostUserServer(
        device: device, memory: GuestMemory(), loop: loop,
        logger: Logger(label: "test") { [log] _ in LogBook(lines: log) })
      server.sessionEnded = { [unowned self] in reasons.append($0) }
      return server
    }

    func spin() throws { for _ in 0..<8 { try loop.turn(timeout: 0) } }

    /// Waits until this many sessions have ended.
    func wait(sessions count: Int) throws {
      let deadline = Clock.now + 20_000_000_000
      while reasons.count < count, Clock.now < deadline { try loop.turn(timeout: 100) }
    }

    func askQueues(_ fd: CInt) throws -> Int {
      _ = try VhostUserMessage(.getQueueNum).encoded.withUnsafeBytes {
        try UnixSocket.send(fd, $0)
      }
      try spin()
      var bytes = [UInt8](repeating: 0, count: 64)
      var fds: [CInt] = []
      return bytes.withUnsafeMutableBytes {
        (try? UnixSocket.receive(fd, into: $0, fds: &fds, dontWait: true).count) ?? -1
      }
    }
  }

  @Test("Front-ends take turns, and the path goes at the end")
  func turns() throws {
    let house = try House()
    let server = house.server()
    try server.listen(on: house.path)
    for round in 1...3 {
      do {
        let first = try UnixSocket.connect(house.path, kind: .stream)
        #expect(try house.askQueues(first.raw) == 20)
      }
      try house.wait(sessions: round)
    }
    #expect(house.reasons == [.frontEndClosed, .frontEndClosed, .frontEndClosed])

    var first: SharedFD? = SharedFD(try UnixSocket.connect(house.path, kind: .stream))
    let second = try UnixSocket.connect(house.path, kind: .stream)
    #expect(try house.askQueues(try #require(first).raw) == 20)
    #expect(try house.askQueues(second.raw) == -1, "the second one waits")
    first = nil
    try house.wait(sessions: 4)
    #expect(try house.askQueues(second.raw) == 40, "its question and the new one")
    #expect(access(house.path, F_OK) == 0)
    server.stop()
    #expect(access(house.path, F_OK) != 0)
    #expect(house.reasons.last == .closedHere)
  }

  @Test("A socket that nobody listens on is replaced, others are not")
  func stalePaths() throws {
    let house = try House()
    do { _ = try UnixSocket.listen(house.path, kind: .stream) }
    let server = house.server()
    try server.listen(on: house.path)
    let client = try UnixSocket.connect(house.path, kind: .stream)
    #expect(try house.askQueues(client.raw) == 20)

    let other = house.server()
    #expect(throws: ListenError(place: house.path, error: Errno(EADDRINUSE, "bind"))) {
      try other.listen(on: house.path)
    }
    #expect(
      ListenError(place: "x", error: Errno(EADDRINUSE, "bind")).description.contains(
        "another process listens there"))
    other.stop()
    #expect(access(house.path, F_OK) == 0, "who could not listen removes nothing")

    unlink(house.path)
    do { _ = try OwnedFD.open(house.path, O_CREAT | O_RDWR) }
    server.stop()
    #expect(access(house.path, F_OK) == 0, "a file that somebody else put there stays")
    #expect(throws: ListenError(place: house.path, error: Errno(ENOTSOCK, "bind"))) {
      try other.listen(on: house.path)
    }
    #expect(throws: ListenError(place: "/nowhere/at/all", error: Errno(ENOENT, "bind"))) {
      try other.listen(on: "/nowhere/at/all")
    }
  }

  @Test("A connected socket is served, and a bad message is logged with its reason")
  func connected() throws {
    let house = try House()
    let server = house.server()
    let pair = try UnixSocket.Pair(.stream)
    try server.serve(try pair.first.duplicate())
    #expect(try house.askQueues(pair.second.raw) == 20)
    _ = try [UInt8](repeating: 0, count: 12).withUnsafeBytes {
      try UnixSocket.send(pair.second.raw, $0)
    }
    try house.spin()
    #expect(house.reasons == [.badFlags(0)])
    #expect(
      house.log.text == [
        "error: the front-end's connection is closed: "
          + "a message has flags 0x0, not those of a request"
      ])
    #expect(server.session == nil)
  }
}
