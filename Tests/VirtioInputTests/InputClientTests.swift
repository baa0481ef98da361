import FakeGuest
import Glibc
import Linux
import PinholeProtocol
import Testing

@testable import PinholeInput

/// The controllers' side, in front of one who reads late, or not at all.
@Suite struct InputClientTests {
  private let client: InputClient
  private let far: Far

  /// The other end of the connection.
  private final class Far {
    private var socket: SharedFD?

    init(_ socket: SharedFD) { self.socket = socket }

    /// The next packet; nil while there is none.
    func packet() throws -> [UInt8]? {
      let socket = try #require(socket)
      var bytes = [UInt8](repeating: 0, count: 1024)
      var fds: [CInt] = []
      do {
        let count = try bytes.withUnsafeMutableBytes {
          try UnixSocket.receive(socket.raw, into: $0, fds: &fds, dontWait: true).count
        }
        return Array(bytes.prefix(count))
      } catch let error as Errno where error.code == EAGAIN { return nil }
    }

    /// Says why it is over, and leaves.
    func refuse(_ code: pinhole_input_error_code, _ text: String) throws {
      let socket = try #require(socket)
      var body = pinhole_input_error()
      body.code = code.rawValue
      InputWire.write(text, to: &body.text)
      _ = try InputWire.bytes(PINHOLE_INPUT_ERROR, body).withUnsafeBytes {
        try UnixSocket.send(socket.raw, $0)
      }
      self.socket = nil
    }
  }

  init() throws {
    let pair = try UnixSocket.Pair(.seqpacket)
    far = Far(SharedFD(try pair.second.duplicate()))
    client = try InputClient(
      socket: try pair.first.duplicate(), name: String(repeating: "n", count: 40))
  }

  /// Controllers in C read names up to their NUL.
  @Test func aLongNameIsCutBeforeItsEnd() throws {
    let hello = try #require(try far.packet())
    #expect(hello.count == MemoryLayout<pinhole_input_hello>.size)
    #expect(Array(hello.suffix(32)) == [UInt8](repeating: UInt8(ascii: "n"), count: 31) + [0])
  }

  /// The other side takes nothing for a while: keys all come, and of places the last before each.
  @Test func keysAreKeptAndOldPlacesAreNot() throws {
    _ = try far.packet()
    var taken = 0
    while !client.hasWaiting {
      try client.send([.key(30, isDown: taken % 2 == 0)])
      taken += 1
    }
    var wanted: [[InputEvent]] = []
    for key in UInt16(31)...33 {
      for x: Int32 in 0..<1000 {
        try client.move(to: InputPlace(x: x, y: Int32(key), width: 2000, height: 100))
      }
      try client.send([.key(key, isDown: true)])
      wanted += [
        [.absolute(Axis.x, 999), .absolute(Axis.y, Int32(key))], [.key(key, isDown: true)],
      ]
    }
    var heard: [[InputEvent]] = []
    while true {
      if let packet = try far.packet() {
        let message = try packet.withUnsafeBytes { try InputWire.parse($0) }
        guard case .events(_, _, _, let events) = message else {
          Issue.record("\(message)")
          return
        }
        heard.append(events)
      } else if client.hasWaiting {
        try client.flush()
      } else {
        break
      }
    }
    #expect(heard.count == taken + wanted.count)
    #expect(Array(heard.dropFirst(taken)) == wanted)
  }

  /// A key that is pressed after the end hides nothing of what the other side said last.
  @Test func theReasonIsReadBehindALostKey() throws {
    _ = try far.packet()
    try far.refuse(PINHOLE_INPUT_ERROR_SHUTDOWN, "it ends")
    try client.send([.key(30, isDown: true)])
    do {
      _ = try client.next(timeout: 0)
      Issue.record("nothing was said")
    } catch {
      guard case .refused(PINHOLE_INPUT_ERROR_SHUTDOWN.rawValue, "it ends") = error else {
        Issue.record("\(error)")
        return
      }
    }
  }

  /// `pinhole input` was started again: what a bridge's viewers press from then on arrives.
  @Test func aLinkIsMadeAgain() throws {
    let directory = try TemporaryDirectory()
    let path = directory.file("control")
    let listener = try UnixSocket.listen(path, kind: .seqpacket)
    let loop = try EventLoop()
    let link = InputLink(path, name: "test", on: loop)
    var losses = 0
    link.failed = { _ in losses += 1 }
    let bound = Clock.now + 20_000_000_000
    for life in 1...2 {
      var poll = pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0)
      repeat {
        link.send([.key(30, isDown: true)])
        try #require(Clock.now < bound, "life \(life): nobody connects")
      } while Glibc.poll(&poll, 1, 50) == 0
      do {
        let far = Far(SharedFD(try UnixSocket.accept(listener.raw)))
        let hello = try far.packet()
        #expect(hello?.count == MemoryLayout<pinhole_input_hello>.size)
        let event = try #require(try far.packet())
        #expect(
          try event.withUnsafeBytes { try InputWire.parse($0) }
            == .events(output: 0, width: 0, height: 0, [.key(30, isDown: true)]))
      }
      while losses < life {
        try #require(Clock.now < bound, "life \(life): its end is not told of")
        try loop.turn(timeout: 100)
      }
    }
  }
}
