import FakeGuest
import Glibc
import Linux
import PinholeInput
import PinholeProtocol
import Testing
import VirtioInput

@testable import InputControl

/// Controllers that break the rules, and the rules.
@Suite struct ControlTests {
  private func connect(_ process: InputProcess) throws -> SharedFD {
    SharedFD(try UnixSocket.connect(process.control, kind: .seqpacket))
  }

  private func send(_ bytes: [UInt8], _ socket: SharedFD) throws {
    _ = try bytes.withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
  }

  /// The next message's type and the code behind its header; nil at the end.
  private func receive(_ socket: SharedFD) throws -> (type: UInt32, code: UInt32)? {
    var bytes = [UInt8](repeating: 0, count: 512)
    var fds: [CInt] = []
    var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
    try #require(Glibc.poll(&poll, 1, 20_000) == 1)
    let count = try bytes.withUnsafeMutableBytes {
      try UnixSocket.receive(socket.raw, into: $0, fds: &fds).count
    }
    guard count >= 12 else { return nil }
    return bytes.withUnsafeBytes {
      (
        $0.loadUnaligned(as: UInt32.self),
        $0.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
      )
    }
  }

  private func hello(magic: UInt32 = PINHOLE_INPUT_MAGIC, version: UInt32 = 1) -> [UInt8] {
    var hello = pinhole_input_hello()
    hello.magic = magic
    hello.version = version
    return InputWire.bytes(PINHOLE_INPUT_HELLO, hello)
  }

  private func events(_ events: [InputEvent], width: UInt32 = 0) -> [UInt8] {
    InputWire.events(events, output: 0, width: width, height: width)
  }

  /// No controller hangs on a listener that is stopped.
  @Test func whoDoesNotAcceptIsNotWaitedForForEver() throws {
    let path = "/tmp/pinhole-input-full-\(getpid()).sock"
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: .seqpacket, backlog: 0)
    let first = try InputClient(path: path, name: "first", patience: 0)
    for patience in [0, 20] as [UInt32] {
      do {
        _ = try InputClient(path: path, name: "second", patience: patience)
        Issue.record("there was room")
      } catch {
        #expect("\(error)".contains("see whether `pinhole input --control-socket \(path)` hangs"))
      }
    }
    withExtendedLifetime((listener.raw, first.fd)) {}
  }

  @Test func turnsAwayThoseWhoBreakTheRules() throws {
    let process = try InputProcess()
    let good = try process.controller()
    let bad: [(String, [[UInt8]], pinhole_input_error_code)] = [
      ("no header", [[1, 2, 3]], PINHOLE_INPUT_ERROR_MALFORMED),
      ("magic", [hello(magic: 7)], PINHOLE_INPUT_ERROR_MALFORMED),
      ("version", [hello(version: 9)], PINHOLE_INPUT_ERROR_VERSION),
      ("no hello", [events([.key(30, isDown: true)])], PINHOLE_INPUT_ERROR_MALFORMED),
      ("twice", [hello(), hello()], PINHOLE_INPUT_ERROR_MALFORMED),
      ("size", [hello() + [0]], PINHOLE_INPUT_ERROR_MALFORMED),
      (
        "type", [hello(), events([InputEvent(type: 21, code: 0, value: 0)])],
        PINHOLE_INPUT_ERROR_MALFORMED
      ),
      (
        "place without a size", [hello(), events([.absolute(0, 5)])],
        PINHOLE_INPUT_ERROR_MALFORMED
      ),
      ("no events", [hello(), events([])], PINHOLE_INPUT_ERROR_MALFORMED),
      (
        "cut off", [hello(), Array(events([.key(30, isDown: true)]).dropLast(1))],
        PINHOLE_INPUT_ERROR_MALFORMED
      ),
      (
        "too many", [hello(), events(.init(repeating: .key(30, isDown: true), count: 33))],
        PINHOLE_INPUT_ERROR_MALFORMED
      ),
    ]
    for (what, messages, code) in bad {
      let socket = try connect(process)
      for message in messages { try send(message, socket) }
      var answer = try receive(socket)
      if answer?.type == PINHOLE_INPUT_WELCOME.rawValue { answer = try receive(socket) }
      #expect(answer?.type == PINHOLE_INPUT_ERROR.rawValue, "\(what)")
      #expect(answer?.code == code.rawValue, "\(what)")
      #expect(try receive(socket) == nil, "\(what)")
    }
    // The others live on.
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    try keyboard.fill()
    try good.send([.key(30, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
  }

  @Test func limitsControllers() throws {
    let process = try InputProcess(["--max-controllers", "2"])
    var two = [try process.controller(), try process.controller()]
    let third = try connect(process)
    let answer = try receive(third)
    #expect(answer?.code == PINHOLE_INPUT_ERROR_LIMIT.rawValue)
    two.removeLast()
    try process.wait("the second to be gone") { process.log.contains("has left") }
    _ = try process.controller()
  }

  @Test func socketIsWhoeversTheOperatorSays() throws {
    func mode(_ process: InputProcess) -> mode_t {
      var facts = stat()
      return lstat(process.control, &facts) == 0 ? facts.st_mode & 0o777 : 0
    }
    #expect(mode(try InputProcess()) == 0o600)
    #expect(
      mode(try InputProcess(["--control-mode", "0660", "--control-group", "\(getgid())"])) == 0o660)
  }

  @Test(.enabled(if: getenv("PINHOLE_SANDBOX") == nil, "the sandbox is switched off"))
  func isConfined() throws {
    let process = try InputProcess()
    let status = String(
      decoding: try WholeFile.read("/proc/\(process.child.pid)/status"), as: UTF8.self)
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000"] {
      #expect(status.contains(line))
    }
  }

  @Test func survivesRubbish() throws {
    let process = try InputProcess()
    let seed = UInt64.random(in: 0...UInt64.max)
    var random = SeededRandom(seed: seed)
    for _ in 0..<200 {
      let socket = try connect(process)
      if Bool.random(using: &random) { try? send(hello(), socket) }
      for _ in 0..<8 {
        let count = Int.random(in: 1...300, using: &random)
        var bytes = (0..<count).map { _ in UInt8.random(in: 0...255, using: &random) }
        if count >= 8, Bool.random(using: &random) {
          // A header that is right leads further.
          let words = [UInt32.random(in: 1...3, using: &random), UInt32(count)]
          bytes.replaceSubrange(0..<8, with: words.withUnsafeBytes { Array($0) })
        }
        try? send(bytes, socket)
      }
    }
    #expect(process.child.status == nil, "seed \(seed)")
    _ = try process.controller()
  }

  @Test func ratesAreKept() {
    var rate = EventRate(perSecond: 100, now: 0)
    rate.take(100, now: 0)
    #expect(rate.wait(now: 0) == 0)
    rate.take(50, now: 0)
    #expect(rate.wait(now: 0) == 500_000_001)
    #expect(rate.wait(now: 250_000_000) == 250_000_001)
    #expect(rate.wait(now: 500_000_000) == 0)
    // Rest does not add up for ever.
    rate.take(101, now: 1_000_000_000_000)
    #expect(rate.wait(now: 1_000_000_000_000) > 0)
  }

  @Test func scanCodesGoBothWays() {
    for key: UInt16 in 1...255 {
      guard let code = ScanCode.of(key) else { continue }
      #expect(ScanCode.key(code) == key)
    }
    #expect(ScanCode.of(30) == 0x1e)
    #expect(ScanCode.of(103) == 0xc8)
    #expect(ScanCode.key(0xb7) == 99)
    #expect(ScanCode.key(0) == nil)
  }

  /// Guests multiply by the size and divide by 32768.
  @Test(arguments: [1, 2, 640, 1024, 1366, 1920, 7680, 16384] as [UInt32])
  func everyPixelIsHit(_ size: UInt32) {
    for pixel in 0..<Int64(size) {
      let place = Int64(InputProfile.position(of: Int32(pixel), in: size))
      #expect(place * Int64(size) / 32768 == pixel)
    }
    #expect(InputProfile.position(of: -5, in: size) == InputProfile.position(of: 0, in: size))
    #expect(
      InputProfile.position(of: .max, in: size)
        == InputProfile.position(of: Int32(size) - 1, in: size))
  }
}
