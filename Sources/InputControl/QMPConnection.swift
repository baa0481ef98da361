import Glibc
import Linux
import Logging
import PinholeInput
import VirtioInput

/// A running QEMU's monitor, told of events by `input-send-event` (QEMU docs/interop/
/// qemu-qmp-ref: ui.json). QEMU gives them to whatever keyboard and pointer its guest has.
///
/// A QMP socket serves one client at a time. It belongs to the event loop's thread.
public final class QMPConnection {
  /// The devices: a keyboard, a tablet and a mouse.
  public let targets: [any InputTarget]
  /// Called once, when QEMU is gone or breaks the protocol, with what happened.
  public var ended: (String) -> Void = { _ in }
  private let facets: [QMPTarget]
  private let socket: OwnedFD
  private let loop: EventLoop
  private let log: Logger
  private var token: EventLoop.Token?
  private var input: [UInt8] = []
  private var output: [UInt8] = []
  private var inFlight = 0
  private var hasWarned = false
  /// Commands that QEMU may have before it must answer.
  private static let maxInFlight = 16
  private static let maxLine = 1 << 20

  /// Connects to a QMP socket and waits until QEMU is ready to take commands.
  ///
  /// - Throws: `ETIMEDOUT` when another client keeps QEMU from answering; errors of connect(2).
  public init(path: String, loop: EventLoop, log: Logger) throws(Errno) {
    socket = try UnixSocket.connect(path, kind: .stream)
    self.loop = loop
    self.log = log
    facets = [
      QMPTarget(InputProfile(.keyboard, name: "QMP keyboard")),
      QMPTarget(InputProfile(.tablet, name: "QMP tablet")),
      QMPTarget(InputProfile(.mouse, name: "QMP mouse")),
    ]
    targets = facets
    for facet in facets { facet.submitted = { [unowned self] in send() } }
    try UnixSocket.setNonblocking(socket.raw, true)
    try awaitLine { $0.starts(with: #"{"QMP""#.utf8) }
    output = Array("{\"execute\": \"qmp_capabilities\"}\n".utf8)
    try write()
    try awaitLine { $0.starts(with: #"{"return""#.utf8) }
    token = try loop.watch(socket.raw, for: .readable) { [unowned self] in turn($0) }
  }

  deinit { if let token { loop.unwatch(token) } }

  /// Waits for a line, passing over events, 5 seconds at most.
  private func awaitLine(_ isWanted: ([UInt8]) -> Bool) throws(Errno) {
    let deadline = Clock.now + 5_000_000_000
    while Clock.now < deadline {
      while let line = nextLine() { if isWanted(line) { return } }
      var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
      _ = try retrying("poll") { Glibc.poll(&poll, 1, 100) }
      guard try fill() else { throw Errno(ECONNRESET, "read") }
    }
    throw Errno(ETIMEDOUT, "read")
  }

  /// - Returns: false when QEMU is gone.
  private func fill() throws(Errno) -> Bool {
    var chunk = [UInt8](repeating: 0, count: 4096)
    let count = Glibc.read(socket.raw, &chunk, chunk.count)
    if count < 0 {
      if errno == EAGAIN || errno == EINTR { return true }
      throw Errno(errno, "read")
    }
    input += chunk.prefix(count)
    return count > 0
  }

  private func nextLine() -> [UInt8]? {
    guard let end = input.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
    let line = Array(input[..<end])
    input.removeSubrange(...end)
    return line
  }

  private func turn(_ events: EventLoop.Events) {
    do throws(Errno) {
      if !events.isDisjoint(with: [.readable, .hangUp, .error]) {
        guard try fill() else { return end("QEMU has closed its QMP socket") }
        guard input.count < Self.maxLine else { return end("QEMU sends no lines") }
        while let line = nextLine() { take(line) }
      }
      try write()
    } catch { return end("\(error)") }
    send()
  }

  private func end(_ why: String) {
    if let token { loop.unwatch(token) }
    token = nil
    ended(why)
  }

  private func take(_ line: [UInt8]) {
    if line.starts(with: #"{"error""#.utf8), !hasWarned {
      hasWarned = true
      log.warning("QEMU refuses input; told once: \(String(decoding: line, as: UTF8.self))")
    }
    if line.starts(with: #"{"error""#.utf8) || line.starts(with: #"{"return""#.utf8) {
      inFlight = max(inFlight - 1, 0)
    }
  }

  /// Sends what waits, as far as QEMU has answered.
  private func send() {
    guard token != nil else { return }
    for facet in facets {
      while inFlight < Self.maxInFlight, output.isEmpty, let events = facet.nextMoment() {
        let list = events.joined(separator: ", ")
        output = Array(
          "{\"execute\": \"input-send-event\", \"arguments\": {\"events\": [\(list)]}}\n".utf8)
        inFlight += 1
        do throws(Errno) { try write() } catch { return end("\(error)") }
      }
    }
  }

  private func write() throws(Errno) {
    while !output.isEmpty {
      let count = Glibc.write(socket.raw, output, output.count)
      if count < 0 {
        if errno == EINTR { continue }
        guard errno == EAGAIN else { throw Errno(errno, "write") }
        break
      }
      output.removeFirst(count)
    }
    guard let token else { return }
    try loop.change(token, to: output.isEmpty ? .readable : [.readable, .writable])
  }
}

/// One kind of device of QEMU's.
final class QMPTarget: InputTarget {
  let profile: InputProfile
  let leds: UInt32 = 0
  var ledsChanged: () -> Void = {}
  var submitted: () -> Void = {}
  private var pending: PendingEvents

  init(_ profile: InputProfile) {
    self.profile = profile
    pending = PendingEvents(profile)
  }

  func submit(_ moment: [InputEvent]) {
    pending.add(moment, isLive: true)
    submitted()
  }

  /// The events of the next moment as JSON; nil when nothing waits.
  func nextMoment() -> [String]? {
    while !pending.isEmpty {
      var list: [String] = []
      while let event = pending.first() {
        pending.take()
        if event.type == EventType.synchronize { break }
        list += Self.json(event)
      }
      if !list.isEmpty { return list }
    }
    return nil
  }

  private static func json(_ event: InputEvent) -> [String] {
    switch event.type {
    case EventType.key:
      let isDown = event.value != 0
      if PointerButton.all.contains(event.code) {
        let names = ["left", "right", "middle", "side", "extra"]
        let index = Int(event.code - PointerButton.left)
        return index < names.count ? [button(names[index], isDown)] : []
      }
      guard let code = ScanCode.of(event.code) else { return [] }
      return [
        #"{"type": "key", "data": {"down": \#(isDown), "key": "#
          + #"{"type": "number", "data": \#(code)}}}"#
      ]
    case EventType.absolute:
      return [axis("abs", event.code, event.value)]
    case EventType.relative where event.code <= Axis.y:
      return [axis("rel", event.code, event.value)]
    case EventType.relative:
      let names =
        event.code == Axis.wheel ? ("wheel-up", "wheel-down") : ("wheel-right", "wheel-left")
      let name = event.value > 0 ? names.0 : names.1
      // A step is a press; a hundred of them are more than any hand turns at once.
      let steps = Int(min(event.value.magnitude, 100))
      return (0..<steps).flatMap { _ in [button(name, true), button(name, false)] }
    default: return []
    }
  }

  private static func button(_ name: String, _ isDown: Bool) -> String {
    #"{"type": "btn", "data": {"button": "\#(name)", "down": \#(isDown)}}"#
  }

  private static func axis(_ type: String, _ code: UInt16, _ value: Int32) -> String {
    #"{"type": "\#(type)", "data": {"axis": "\#(code == Axis.x ? "x" : "y")", "value": \#(value)}}"#
  }
}
