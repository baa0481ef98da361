import FakeGuest
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Testing

/// `pinhole conformance` in front of consumers that are nearly right: it finds what is not.
@Suite struct ConformanceMistakesTests {
  /// What a consumer does wrong.
  enum Mistake: CaseIterable {
    case nothing, anotherSerial, anotherOutput, anotherBuffer, chatter

    /// What is said of it.
    var complaint: String {
      switch self {
      case .nothing: " 0 failed"
      case .anotherSerial: "FRAME_DONE for frame 101 of output 0, which is not in flight"
      case .anotherOutput: "FRAME_DONE for frame 1 of output 1, which is not in flight"
      case .anotherBuffer: "FAIL a removed buffer is closed, and the next generation is taken: it "
      case .chatter: "FAIL it says nothing unasked: "
      }
    }
  }

  /// Answers one packet of the producer; false at the end.
  private func answer(
    _ packet: [UInt8], _ mistake: Mistake, _ outputs: inout Int, _ send: ([UInt8]) throws -> Void
  ) throws -> Bool {
    func body<Body: BitwiseCopyable>(_: Body.Type) throws -> Body {
      try #require(packet.count == MemoryLayout<Body>.size)
      return packet.withUnsafeBytes { $0.loadUnaligned(as: Body.self) }
    }
    func bytes<Body: BitwiseCopyable>(_ body: Body) -> [UInt8] {
      withUnsafeBytes(of: body) { Array($0) }
    }
    guard packet.count >= 8 else { return false }
    switch packet.withUnsafeBytes({ $0.loadUnaligned(as: UInt32.self) }) {
    case PINHOLE_OUTPUT.rawValue: outputs += 1
    case PINHOLE_FRAME.rawValue:
      let serial = try body(pinhole_frame.self).serial
      let done = FrameDone(
        output: mistake == .anotherOutput ? 1 : 0,
        serial: mistake == .anotherSerial ? serial + 100 : serial)
      try send(bytes(done.wire))
      // The output has come, gone and come again: this is the last frame.
      if mistake == .chatter, outputs == 3 {
        try send(bytes(pinhole_header(type: PINHOLE_OPTIONAL | 0x66, size: 8)))
      }
    case PINHOLE_BUFFER_REMOVE.rawValue:
      let remove = try body(pinhole_buffer_remove.self)
      let name = BufferName(
        number: remove.buffer,
        generation: remove.generation + (mistake == .anotherBuffer ? 7 : 0))
      try send(bytes(BufferClosed(name).wire))
    case PINHOLE_ERROR.rawValue: return false
    default: break
    }
    return true
  }

  @Test(arguments: Mistake.allCases) func itIsFound(_ mistake: Mistake) throws {
    let folder = try TemporaryDirectory()
    let out = try OwnedFD.open(folder.file("out"), O_WRONLY | O_CREAT | O_APPEND)
    let path = folder.file("frames")
    let checks = try ChildProcess(
      [Puncher.defaultProgram, "conformance", "--listen", path], fds: [(out.raw, 1), (out.raw, 2)])
    while !PinholeProcess.isListening(on: [path]) {
      try #require(checks.status == nil)
      usleep(1000)
    }
    let socket = SharedFD(try UnixSocket.connect(path, kind: .seqpacket))
    /// Whoever has seen the mistake may be gone before the next message.
    func send(_ bytes: [UInt8]) throws {
      do {
        _ = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
      } catch let error as Errno where [EPIPE, ECONNRESET].contains(error.code) {}
    }
    try send(withUnsafeBytes(of: ConsumerHello(name: "test").wire) { Array($0) })
    var outputs = 0
    while true {
      var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
      try #require(Glibc.poll(&poll, 1, 60_000) == 1, "nothing more is said")
      var bytes = [UInt8](repeating: 0, count: Int(PINHOLE_MAX_MESSAGE))
      var fds: [CInt] = []
      var count = 0
      do {
        count = try bytes.withUnsafeMutableBytes {
          try UnixSocket.receive(socket.raw, into: $0, fds: &fds).count
        }
      } catch let error as Errno where error.code == ECONNRESET {}
      for fd in fds { close(fd) }
      guard try answer(Array(bytes[..<count]), mistake, &outputs, send) else { break }
    }
    let status = checks.waitForEnd(milliseconds: 60_000)
    let text = String(decoding: try WholeFile.read(folder.file("out")), as: UTF8.self)
    #expect(text.contains(mistake.complaint), "\(text)")
    #expect(status == (mistake == .nothing ? 0 : 1), "\(text)")
  }
}
