import FakeGuest
import Glibc
import Linux
import Logging
import PinholeInput
import Testing
import VirtioInput

@testable import InputControl

private func isReadable(_ fd: CInt, milliseconds: CInt = 20_000) -> Bool {
  var poll = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
  return Glibc.poll(&poll, 1, milliseconds) == 1
}

private func tell(_ socket: SharedFD, _ text: String) throws {
  let bytes = Array(text.utf8)
  _ = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
}

/// What QEMU says to a client that has connected.
private func greet(_ listener: SharedFD, _ accepted: Locked<SharedFD?>) throws {
  guard isReadable(listener.raw) else { return }
  let socket = SharedFD(try UnixSocket.accept(listener.raw))
  accepted.withLock { $0 = socket }
  try tell(socket, "{\"QMP\": {\"version\": {}}}\n")
  var asked = [UInt8](repeating: 0, count: 100)
  guard isReadable(socket.raw), read(socket.raw, &asked, asked.count) > 0 else { return }
  try tell(socket, "{\"timestamp\": {}, \"event\": \"RESUME\"}\n{\"return\": {}}\n")
}

/// QEMU's monitor as the other way to a guest: a test plays QEMU, on a socket.
@Suite struct QMPTests {
  /// QEMU's end, past the greetings.
  private final class Monitor {
    let connection: QMPConnection
    let loop: EventLoop
    private let socket: SharedFD
    private let directory: TemporaryDirectory
    private var bytes: [UInt8] = []

    init() throws {
      directory = try TemporaryDirectory()
      let path = directory.file("qmp")
      let listener = SharedFD(try UnixSocket.listen(path, kind: .stream))
      loop = try EventLoop()
      let accepted = Locked<SharedFD?>(nil)
      // It asks and waits while it is made.
      let qemu = try Linux.Thread("qmp") { try? greet(listener, accepted) }
      connection = try QMPConnection(
        path: path, loop: loop, log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
      _ = consume qemu
      let made = accepted.withLock { $0 }
      socket = try #require(made)
    }

    /// Says some lines, and lets them be heard.
    func say(_ line: String, times: Int = 1) throws {
      try tell(socket, String(repeating: line + "\n", count: times))
      for _ in 0..<3 { try loop.turn(timeout: 0) }
    }

    /// The lists of events of the commands that have come, as JSON.
    func heard() throws -> [String] {
      var chunk = [UInt8](repeating: 0, count: 65536)
      while isReadable(socket.raw, milliseconds: 0) {
        let count = read(socket.raw, &chunk, chunk.count)
        guard count > 0 else { break }
        bytes += chunk.prefix(count)
      }
      var lists: [String] = []
      while let end = bytes.firstIndex(of: UInt8(ascii: "\n")) {
        let line = String(decoding: bytes[..<end], as: UTF8.self)
        bytes.removeSubrange(...end)
        let head = "{\"execute\": \"input-send-event\", \"arguments\": {\"events\": ["
        try #require(line.hasPrefix(head) && line.hasSuffix("]}}"), "\(line)")
        lists.append(String(line.dropFirst(head.count).dropLast(3)))
      }
      return lists
    }
  }

  private func key(_ scanCode: Int, _ isDown: Bool) -> String {
    #"{"type": "key", "data": {"down": \#(isDown), "key": {"type": "number", "data": \#(scanCode)}}}"#
  }

  private func button(_ name: String) -> String {
    [true, false].map { #"{"type": "btn", "data": {"button": "\#(name)", "down": \#($0)}}"# }
      .joined(separator: ", ")
  }

  @Test func eventsAreAsQEMUNamesThem() throws {
    let monitor = try Monitor()
    let targets = monitor.connection.targets
    // KEY_UP is 0xe0 0x48 of a PC's keyboard.
    targets[0].submit([.key(103, isDown: true)])
    targets[0].submit([.key(103, isDown: false)])
    targets[1].submit([.absolute(Axis.x, 100), .absolute(Axis.y, 32767)])
    targets[1].submit([.relative(Axis.wheel, 1)])
    targets[1].submit([.relative(Axis.wheel, -1)])
    targets[2].submit([.relative(Axis.x, -5), .relative(Axis.y, 7)])
    targets[2].submit([
      .key(PointerButton.right, isDown: true), .key(PointerButton.right, isDown: false),
    ])
    #expect(
      try monitor.heard() == [
        key(0xc8, true), key(0xc8, false),
        #"{"type": "abs", "data": {"axis": "x", "value": 100}}, "#
          + #"{"type": "abs", "data": {"axis": "y", "value": 32767}}"#,
        button("wheel-up"), button("wheel-down"),
        #"{"type": "rel", "data": {"axis": "x", "value": -5}}, "#
          + #"{"type": "rel", "data": {"axis": "y", "value": 7}}"#,
        button("right"),
      ])
  }

  /// A QEMU that does not answer is not flooded; each answer, also a refusal, makes room for one.
  @Test func answersMakeRoom() throws {
    let monitor = try Monitor()
    let keyboard = monitor.connection.targets[0]
    let wanted = (0..<40).map { key(30, $0 % 2 == 0) }
    for index in 0..<40 { keyboard.submit([.key(30, isDown: index % 2 == 0)]) }
    var heard = try monitor.heard()
    #expect(heard.count == 16)
    try monitor.say(#"{"timestamp": {}, "event": "STOP"}"#, times: 5)
    heard += try monitor.heard()
    #expect(heard.count == 16, "these are no answers")
    try monitor.say(#"{"error": {"class": "GenericError", "desc": "no"}}"#, times: 16)
    heard += try monitor.heard()
    #expect(heard.count == 32)
    try monitor.say(#"{"return": {}}"#, times: 16)
    heard += try monitor.heard()
    #expect(heard == wanted)
  }
}
