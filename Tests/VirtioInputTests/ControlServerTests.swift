import Glibc
import Linux
import Logging
import PinholeInput
import PinholeProtocol
import Testing
import VirtioInput

@testable import InputControl

/// A control socket whose loop the test turns.
@Suite struct ControlServerTests {
  private final class Keyboard: InputTarget {
    let profile = InputProfile(.keyboard, name: "keyboard")
    var leds: UInt32 = 0
    var ledsChanged: () -> Void = {}
    var events: [InputEvent] = []
    func submit(_ moment: [InputEvent]) { events += moment }
  }

  private let loop: EventLoop
  private let keyboard = Keyboard()

  init() throws { loop = try EventLoop() }

  private func server(rate: Int = 4000) -> ControlServer {
    var options = ControlServer.Options()
    options.maxRate = rate
    return ControlServer(
      InputHub([keyboard]), options: options, loop: loop,
      log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
  }

  private func turn() throws { for _ in 0..<10 { try loop.turn(timeout: 0) } }

  /// A controller that was accepted.
  private func controller(of server: ControlServer) throws -> InputClient {
    let pair = try UnixSocket.Pair(.seqpacket)
    server.serve(try pair.first.duplicate())
    let client = try InputClient(socket: try pair.second.duplicate(), name: "test")
    try turn()
    #expect(try client.next(timeout: 0) == .connected(.keyboard))
    return client
  }

  /// Sixteen keys go down and up.
  private let burst: [InputEvent] = (UInt16(1)...16).flatMap { (key: UInt16) -> [InputEvent] in
    [.key(key, isDown: true), .key(key, isDown: false)]
  }

  /// Half a minute's worth of events at once: the next one waits, and nobody else does.
  @Test func whoSendsTooFastIsMadeToWait() throws {
    let server = server(rate: 1)
    let (fast, slow) = (try controller(of: server), try controller(of: server))
    try fast.send(burst)
    try fast.send([.key(30, isDown: true)])
    try turn()
    #expect(keyboard.events == burst)
    try slow.send([.key(31, isDown: true)])
    try turn()
    #expect(keyboard.events == burst + [.key(31, isDown: true)])
  }

  @Test func whoHasWaitedIsHeardAgain() throws {
    let server = server(rate: 1000)
    let fast = try controller(of: server)
    for _ in 0..<40 { try fast.send(burst) }
    let bound = Clock.now + 20_000_000_000
    while keyboard.events.count < 40 * burst.count, Clock.now < bound {
      try loop.turn(timeout: 100)
    }
    #expect(keyboard.events.count == 40 * burst.count)
  }

  /// Lamps are switched far more often than a controller's socket holds that does not read.
  @Test func theLastLampsAreToldHoweverLate() throws {
    let server = server()
    let client = try controller(of: server)
    for state in UInt32(1)...2001 {
      keyboard.leds = state
      keyboard.ledsChanged()
    }
    var rounds = 0
    while client.leds != 2001, rounds < 100 {
      while try client.next(timeout: 0) != nil {}
      try loop.turn(timeout: 1)
      rounds += 1
    }
    #expect(client.leds == 2001)
  }

  /// The timer is looked at, so that nobody has to wait for it.
  @Test func whoDoesNotIntroduceHimselfHasFiveSeconds() throws {
    let server = server()
    let pair = try UnixSocket.Pair(.seqpacket)
    let before = Clock.now
    server.serve(try pair.first.duplicate())
    let due = before + 5_000_000_000...Clock.now + 5_000_000_000
    #expect(due.contains(loop.nextDue))
  }

  @Test func keysGoUpAtTheEnd() throws {
    let server = server()
    let client = try controller(of: server)
    try client.send([.key(30, isDown: true)])
    try turn()
    server.stop()
    #expect(keyboard.events == [.key(30, isDown: true), .key(30, isDown: false)])
    do {
      _ = try client.next(timeout: 0)
      Issue.record("the end is not told of")
    } catch {
      guard case .refused(PINHOLE_INPUT_ERROR_SHUTDOWN.rawValue, _) = error else {
        Issue.record("\(error)")
        return
      }
    }
  }
}
