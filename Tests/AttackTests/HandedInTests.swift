import FakeGuest
import Glibc
import Linux
import Testing
import VhostUser

/// What hangs on sockets that nobody has received from when they are closed: `--fd`, and the end.
@Suite struct HandedInTests {
  /// `pinhole serve --fd` and the front-end's end of its socket.
  private struct Served {
    let child: ChildProcess
    let front: VhostUserFrontEnd
    let directory: TemporaryDirectory
    var log: String { WholeFile.text(directory.file("log")) ?? "" }
    var frames: String { directory.file("frames") }
  }

  private func serve() throws -> Served {
    let directory = try TemporaryDirectory()
    let out = try OwnedFD.open(directory.file("log"), O_WRONLY | O_CREAT | O_APPEND)
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
    let (ours, theirs) = (try #require(ends.0), try #require(ends.1))
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    let child = try ChildProcess(
      [
        Puncher.defaultProgram, "serve", "--fd", "3", "--frames-socket", directory.file("frames"),
      ] + sandbox, fds: [(theirs.raw, 3), (out.raw, 1), (out.raw, 2)])
    var options = VhostUserFrontEnd.Options()
    // It has to start first.
    options.patience = 60_000
    let front = try VhostUserFrontEnd(ours.duplicate(), ram: GuestRAM(size: 16 << 20), options)
    return Served(child: child, front: front, directory: directory)
  }

  /// Seconds, longer than anybody here waits. Not for ever: should the last close be ours after all,
  /// it is this test that lingers.
  private static let linger: CInt = 30

  private func carrier() throws -> (WaitingSocket, SharedFD) {
    let waiting = try WaitingSocket(lingering: Self.linger)
    var end: SharedFD?
    try UnixSocket.Pair(.stream).split { ours, theirs in
      try? FrameAttacks.send(theirs.raw, [1], [waiting.raw])
      end = SharedFD(ours)
    }
    waiting.giveAway()
    return (waiting, try #require(end))
  }

  private func say(_ served: Served, _ request: FrontEndRequest, _ fds: [CInt] = []) throws {
    let bytes = VhostUserMessage(request, []).encoded
    try FrameAttacks.send(served.front.channel.socket.raw, bytes, fds)
  }

  /// It loses its connection, as one that came by `--socket-path`, and the loop waits for nothing.
  @Test func whatAHandedInFrontEndSendsIsClosedElsewhere() throws {
    let served = try serve()
    let frame = try Framebuffer(GPUDriver(served.front), resource: 1, width: 320, height: 200)
    let watcher = try FrameWatcher(path: served.frames)
    let picture = TestPicture.smpte.render(width: 320, height: 200)
    frame.draw(picture)
    try frame.show()
    try frame.flush()
    #expect(watcher.difference(from: picture, milliseconds: 15_000) == nil, "\(served.log)")
    var waiting: [WaitingSocket] = []
    for _ in 0..<2 {
      // The second takes the first one's place, which is closed with what is in it.
      let (one, end) = try carrier()
      waiting.append(one)
      try say(served, .setBackendRequestFD, [end.raw])
    }
    let deadline = Clock.now + 20_000_000_000
    while served.child.status == nil, Clock.now < deadline {
      try? say(served, .setOwner)
      usleep(50_000)
    }
    #expect(served.child.status == 1, "\(served.log)")
    #expect(served.log.contains("a descriptor that came from the front-end does not close"))
    #expect(!served.log.contains("the event loop has not turned"), "\(served.log)")
    withExtendedLifetime(waiting) {}
  }

  /// Who waits in a backlog has sent something already, which is closed with the listener.
  @Test(arguments: [true, false])
  func whatNobodyAcceptedDoesNotHoldUpTheEnd(_ isCarried: Bool) throws {
    let pinhole = try PinholeProcess()
    let driver = try GPUDriver(
      try VhostUserFrontEnd(path: pinhole.socket, ram: GuestRAM(size: 16 << 20)))
    // One front-end at a time: this one is not accepted.
    let next = try UnixSocket.connect(pinhole.socket, kind: .stream)
    let bytes = VhostUserMessage(.setOwner, []).encoded
    let waiting: WaitingSocket
    if isCarried {
      let (one, end) = try carrier()
      waiting = one
      try FrameAttacks.send(next.raw, bytes, [end.raw])
    } else {
      waiting = try WaitingSocket(lingering: Self.linger)
      try FrameAttacks.send(next.raw, bytes, [waiting.raw])
      waiting.giveAway()
    }
    #expect(try driver.displayInfo()[0].enabled)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
    #expect(!pinhole.log.contains("the event loop has not turned"), "\(pinhole.log)")
    withExtendedLifetime(waiting) {}
  }

  /// `pinhole status` has nothing to pass, so nobody who asks may.
  @Test func theControlSocketTakesNoDescriptors() throws {
    let directory = try TemporaryDirectory()
    let control = directory.file("control")
    let pinhole = try PinholeProcess(["--control", control])
    while !PinholeProcess.isListening(on: [control]), pinhole.child.status == nil { usleep(1000) }
    let end = try UnixSocket.connect(control, kind: .stream)
    let event = try EventFD()
    let result = Result { try FrameAttacks.send(end.raw, [1], [event.fd.raw]) }
    // Linux 6.16; EPIPE if it has answered and closed already.
    if DescriptorRefusal.isKnown {
      let error = #expect(throws: Errno.self) { try result.get() }
      #expect(error?.code == EPERM || error?.code == EPIPE)
    }
    #expect(pinhole.terminate() == 0)
  }
}
