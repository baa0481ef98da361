import FakeGuest
import Glibc
import Linux
import Testing

/// Nobody outside can have a bridge wait. `pinhole vnc` stands for all: they start in the same way.
@Suite struct BridgeWallsTests {
  private func start(
    _ directory: TemporaryDirectory, _ pinhole: PinholeProcess, log: CInt
  ) throws -> ChildProcess {
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    let child = try ChildProcess(
      [
        Puncher.defaultProgram + "-vnc", "--frames-socket", pinhole.framesSocket, "--listen",
        directory.file("vnc"),
      ] + sandbox, fds: [(log, 2)])
    while !PinholeProcess.isListening(on: [directory.file("vnc")]) {
      try #require(child.status == nil)
      usleep(1000)
    }
    return child
  }

  /// What the server says first, RFC 6143, 7.1.1.
  private func greeting(_ path: String) throws -> String {
    let viewer = try UnixSocket.connect(path, kind: .stream)
    var bytes = [UInt8](repeating: 0, count: 12)
    var poll = pollfd(fd: viewer.raw, events: Int16(POLLIN), revents: 0)
    guard Glibc.poll(&poll, 1, 60_000) == 1 else { return "nothing" }
    let count = read(viewer.raw, &bytes, bytes.count)
    return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
  }

  /// A log that nobody reads loses lines; viewers are served.
  @Test func aLogThatNobodyReadsStopsNothing() throws {
    let pinhole = try PinholeProcess()
    let directory = try TemporaryDirectory()
    let pipe = try FullPipe()
    let child = try start(directory, pinhole, log: pipe.writer)
    for _ in 0..<3 { #expect(try greeting(directory.file("vnc")) == "RFB 003.008\n") }
    child.signal(SIGTERM)
    #expect(child.waitForEnd(milliseconds: 20_000) == 0)
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }

  /// Viewers pass nothing, and one that waits to be accepted holds nobody up.
  @Test func viewersPassNoDescriptors() throws {
    let pinhole = try PinholeProcess()
    let directory = try TemporaryDirectory()
    let log = directory.file("log")
    let out = try OwnedFD.open(log, O_WRONLY | O_CREAT | O_APPEND)
    let child = try start(directory, pinhole, log: out.raw)
    let viewer = try UnixSocket.connect(directory.file("vnc"), kind: .stream)
    let from = viewer.raw
    func send(_ fd: CInt) throws {
      _ = try [UInt8](repeating: 7, count: 4).withUnsafeBytes {
        try UnixSocket.send(from, $0, fds: [fd])
      }
    }
    var waiting: WaitingSocket?
    if DescriptorRefusal.isKnown {
      let event = try EventFD()
      #expect(throws: Errno(EPERM, "sendmsg")) { try send(event.fd.raw) }
    } else {
      let one = try WaitingSocket(lingering: 30)
      waiting = one
      try send(one.raw)
      one.giveAway()
    }
    #expect(try greeting(directory.file("vnc")) == "RFB 003.008\n")
    child.signal(SIGTERM)
    let text = WholeFile.text(log) ?? ""
    #expect(child.waitForEnd(milliseconds: 20_000) == 0, "\(text)")
    #expect(!text.contains("the event loop has not turned"), "\(text)")
    withExtendedLifetime(waiting) {}
    #expect(pinhole.terminate() == 0, "\(pinhole.log)")
  }
}
