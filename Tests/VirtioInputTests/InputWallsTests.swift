import FakeGuest
import Glibc
import Linux
import PinholeInput
import PinholeProtocol
import Testing

/// Nobody outside can have `pinhole input` wait, as nobody can `pinhole serve`.
@Suite struct InputWallsTests {
  /// A socket in whose queue lies the last descriptor of one that lingers, longer than anybody here
  /// waits. Not for ever: should the last close be ours after all, it is this test that lingers.
  private func carrier() throws -> (WaitingSocket, SharedFD) {
    let waiting = try WaitingSocket(lingering: 30)
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    try UnixSocket.Pair(.stream).split { ends = (SharedFD($0), SharedFD($1)) }
    let (ours, theirs) = (try #require(ends.0), try #require(ends.1))
    try send([1], [waiting.raw], theirs.raw)
    waiting.giveAway()
    return (waiting, ours)
  }

  private func send(_ bytes: [UInt8], _ fds: [CInt], _ socket: CInt) throws {
    _ = try bytes.withUnsafeBytes { try UnixSocket.send(socket, $0, fds: fds) }
  }

  /// A front-end sends what does not close, with a request that takes nothing, and one waits in the
  /// backlog that has sent the same.
  @Test func whatDoesNotCloseHoldsNobodyUp() throws {
    let process = try InputProcess()
    let path = process.directory.file("keyboard")
    var waiting: [WaitingSocket] = []
    for _ in 0..<3 {
      let (one, end) = try carrier()
      waiting.append(one)
      // VHOST_USER_SET_OWNER, version 1, no payload.
      let socket = try UnixSocket.connect(path, kind: .stream)
      try send(WireBytes(u32: 3, 1, 0).bytes, [end.raw], socket.raw)
    }
    // The three are refused, and the next front-end is served.
    let keyboard = try InputGuest(path)
    try keyboard.fill()
    let controller = try process.controller()
    try controller.send([.key(30, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
    process.child.signal(SIGTERM)
    #expect(process.child.waitForEnd(milliseconds: 20_000) == 0, "\(process.log)")
    #expect(!process.log.contains("the event loop has not turned"), "\(process.log)")
    withExtendedLifetime(waiting) {}
  }

  /// The kernel keeps descriptors out, or the controller that sends them has to go.
  @Test func controllersPassNoDescriptors() throws {
    let process = try InputProcess()
    let good = try process.controller()
    let event = try EventFD()
    let socket = try UnixSocket.connect(process.control, kind: .seqpacket)
    var hello = pinhole_input_hello()
    hello.magic = PINHOLE_INPUT_MAGIC
    hello.version = 1
    let bytes = InputWire.bytes(PINHOLE_INPUT_HELLO, hello)
    if DescriptorRefusal.isKnown {
      let raw = socket.raw
      #expect(throws: Errno(EPERM, "sendmsg")) { try send(bytes, [event.fd.raw], raw) }
    } else {
      try send(bytes, [event.fd.raw], socket.raw)
      try process.wait("it to be sent away") { process.log.contains("there is no use") }
    }
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    try keyboard.fill()
    try good.send([.key(30, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
  }

  /// A log that nobody reads loses lines; keys go on.
  @Test func aLogThatNobodyReadsStopsNothing() throws {
    let pipe = try FullPipe()
    let directory = try TemporaryDirectory()
    let control = directory.file("control")
    let program = Puncher.defaultProgram.split(separator: "/").dropLast().joined(separator: "/")
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    let child = try ChildProcess(
      [
        "/\(program)/pinhole-input", "--control-socket", control, "--keyboard",
        directory.file("keyboard"),
      ] + sandbox, fds: [(pipe.writer, 2)])
    while !PinholeProcess.isListening(on: [control]) {
      try #require(child.status == nil)
      usleep(1000)
    }
    let controller = try InputClient(path: control, name: "test")
    guard case .connected? = try controller.next(timeout: 60_000) else {
      Issue.record("HELLO was not answered")
      return
    }
    let keyboard = try InputGuest(directory.file("keyboard"))
    try keyboard.fill()
    try controller.send([.key(30, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
    child.signal(SIGTERM)
    #expect(child.waitForEnd(milliseconds: 20_000) == 0)
  }
}
