import FakeGuest
import Glibc
import Linux
import Testing

/// Sockets that a service manager hands over, sd_listen_fds(3), and what else begins and ends a
/// daemon.
@Suite struct ActivationTests {
  private final class Rig {
    let directory: TemporaryDirectory
    var front: String { directory.file("vhost-user") }
    var frames: String { directory.file("frames") }
    var log: String { WholeFile.text(directory.file("log")) ?? "" }

    init() throws { directory = try TemporaryDirectory() }

    func listen(_ name: String, _ kind: UnixSocket.Kind) throws -> SharedFD {
      SharedFD(try UnixSocket.listen(directory.file(name), kind: kind))
    }

    /// Starts `pinhole serve` as systemd does: descriptors from 3 on, and their number.
    ///
    /// - Parameter pid: whom they are for; the process itself unless it is said.
    func start(
      _ sockets: [SharedFD], pid: String = "$$", count: Int? = nil, _ options: [String] = []
    ) throws -> ChildProcess {
      let out = try OwnedFD.open(directory.file("log"), O_WRONLY | O_CREAT | O_APPEND)
      let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
      let script = "LISTEN_PID=\(pid) LISTEN_FDS=\(count ?? sockets.count) exec \"$@\""
      var fds: [(ours: CInt, theirs: CInt)] = [(out.raw, 1), (out.raw, 2)]
      for (index, socket) in sockets.enumerated() { fds.append((socket.raw, CInt(3 + index))) }
      return try ChildProcess(
        ["/bin/sh", "-c", script, "sh", Puncher.defaultProgram, "serve"] + sandbox + options,
        fds: fds)
    }

    /// What a start says that ends with an error; nil if it does not end so.
    func complaint(
      _ sockets: [SharedFD], pid: String = "$$", count: Int? = nil, _ options: [String] = []
    ) throws -> String? {
      let child = try start(sockets, pid: pid, count: count, options)
      guard let status = child.waitForEnd(milliseconds: 30_000), status != 0 else { return nil }
      return log
    }
  }

  @Test(arguments: [false, true])
  func eachSocketIsForWhatItsKindSays(_ framesFirst: Bool) throws {
    let rig = try Rig()
    let sockets = [try rig.listen("vhost-user", .stream), try rig.listen("frames", .seqpacket)]
    // As systemd makes them.
    for socket in sockets { try UnixSocket.setNonblocking(socket.raw, false) }
    let child = try rig.start(framesFirst ? sockets.reversed() : sockets)
    var options = VhostUserFrontEnd.Options()
    // It has to start first.
    options.patience = 30_000
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: rig.front, ram: GuestRAM(size: 16 << 20), options))
    let watcher = try FrameWatcher(path: rig.frames)
    let frame = try Framebuffer(driver, resource: 1, width: 320, height: 200)
    let picture = TestPicture.smpte.render(width: 320, height: 200)
    frame.draw(picture)
    try frame.show()
    try frame.flush()
    #expect(watcher.difference(from: picture, milliseconds: 15_000) == nil, "\(rig.log)")
    // Nobody has it wait, and what it starts does not get them.
    for socket in sockets { #expect(UnixSocket.isNonblocking(socket.raw)) }
    for number in 3...4 {
      let facts = try #require(WholeFile.text("/proc/\(child.pid)/fdinfo/\(number)"))
      let line = try #require(facts.split(separator: "\n").first { $0.hasPrefix("flags:") })
      let flags = try #require(Int(line.split(separator: "\t").last ?? "", radix: 8))
      #expect(flags & 0o2_000_000 != 0, "O_CLOEXEC")
    }
    withExtendedLifetime((driver, watcher)) {}
    child.signal(SIGTERM)
    #expect(child.waitForEnd(milliseconds: 20_000) == 0, "\(rig.log)")
    // Whoever made the paths listens on.
    #expect(access(rig.front, F_OK) == 0 && access(rig.frames, F_OK) == 0)
  }

  @Test func whatCannotBeServedIsRefused() throws {
    let rig = try Rig()
    let stream = try rig.listen("vhost-user", .stream)
    let other = try rig.listen("other", .stream)
    let packets = try rig.listen("frames", .seqpacket)
    let file = SharedFD(try MemFD.create("file", size: 4096))
    func says(
      _ words: String, _ sockets: [SharedFD], count: Int? = nil, _ options: [String] = []
    ) throws {
      let said = try rig.complaint(sockets, count: count, options)
      #expect(said?.contains(words) == true, "\(said ?? "it did not end")")
      unlink(rig.directory.file("log"))
    }
    try says("two stream sockets, and the front-end takes one", [stream, packets, other])
    try says("two sockets of packets", [packets, stream, packets])
    try says("descriptor 4 is not a listening Unix socket", [stream, file])
    try says("9 sockets are too many", [stream], count: 9)
    try says("there is no stream socket for the front-end", [packets])
    try says("exclude a socket", [stream], ["--socket-path", rig.directory.file("own")])
  }

  /// The variables are inherited by whoever is started, and are meant for one process alone.
  @Test func socketsForAnotherProcessAreLeftAlone() throws {
    let rig = try Rig()
    let said = try rig.complaint([try rig.listen("vhost-user", .stream)], pid: "1")
    #expect(said?.contains("there is no stream socket for the front-end") == true, "\(said ?? "")")
  }

  // MARK: - The end

  @Test func withOnceItEndsWhenItsFrontEndLeaves() throws {
    let pinhole = try PinholeProcess(["--once"])
    let front = try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20))
    #expect(try GPUDriver(front).displayInfo()[0].enabled)
    #expect(shutdown(front.channel.socket.raw, CInt(SHUT_RDWR)) == 0)
    #expect(pinhole.child.waitForEnd(milliseconds: 20_000) == 0, "\(pinhole.log)")
    #expect(access(pinhole.socket, F_OK) != 0 && access(pinhole.framesSocket, F_OK) != 0)
  }

  @Test func withOnceTheErrorOfAFrontEndIsItsOwn() throws {
    let pinhole = try PinholeProcess(["--once"])
    let front = try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20))
    let rubbish = [UInt8](repeating: 0xff, count: 64)
    #expect(write(front.channel.socket.raw, rubbish, rubbish.count) == rubbish.count)
    let status = try #require(pinhole.child.waitForEnd(milliseconds: 20_000), "\(pinhole.log)")
    #expect(status == 1, "\(pinhole.log)")
  }

  @Test func noMoreConsumersAreTakenThanAllowed() throws {
    let pinhole = try PinholeProcess(["--max-consumers", "1"])
    let first = try FrameWatcher(path: pinhole.framesSocket)
    // It may be sent away before it has said anything.
    let second = try? FrameWatcher(path: pinhole.framesSocket)
    let deadline = Clock.now + 15_000_000_000
    let words = "refused: there are 1 consumers already"
    while !pinhole.log.contains(words), Clock.now < deadline { usleep(10_000) }
    #expect(pinhole.log.contains(words), "\(pinhole.log)")
    #expect(second?.wait(milliseconds: 15_000) { $0.failure != nil } != false)
    #expect(first.now.failure == nil)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
