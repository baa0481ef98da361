import Glibc
import Linux
import PinholeInput
import PinholeProtocol

/// One controller's connection. It says at most that it is over; its server closes it.
final class Controller {
  let number: UInt64
  private(set) var name = ""
  private let socket: OwnedFD
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var rate: EventRate
  private var pause: LoopTimer?
  /// Takes events that were found well-formed.
  private let received: (InputWire.Message, Controller) throws(InputWire.Malformed) -> Void
  private let ended: (Controller, String?) -> Void
  /// The answer to HELLO has gone out.
  private(set) var isWelcome = false
  private var ledsDue: UInt32?
  private static let messagesPerTurn = 32

  init(
    _ socket: consuming OwnedFD, number: UInt64, rate: Int, loop: EventLoop,
    received: @escaping (InputWire.Message, Controller) throws(InputWire.Malformed) -> Void,
    ended: @escaping (Controller, String?) -> Void
  ) throws(Errno) {
    try UnixSocket.setNonblocking(socket.raw, true)
    self.socket = socket
    self.number = number
    self.loop = loop
    self.received = received
    self.ended = ended
    self.rate = EventRate(perSecond: rate, now: Clock.now)
    pause = LoopTimer(on: loop) { [unowned self] in watch() }
    token = try loop.watch(self.socket.raw, for: .readable) { [unowned self] in turn($0) }
    // Who says nothing does not keep a place.
    pause?.arm(after: 5_000_000_000)
  }

  deinit { if let token { loop.unwatch(token) } }

  /// Answers HELLO.
  func welcome(name: String, devices: InputClient.Devices, leds: UInt32) {
    self.name = name
    isWelcome = true
    pause?.disarm()
    var body = pinhole_input_welcome()
    body.version = PINHOLE_INPUT_VERSION
    body.devices = devices.rawValue
    body.leds = leds
    _ = send(InputWire.bytes(PINHOLE_INPUT_WELCOME, body))
  }

  /// Tells of lamps, now or when there is room: only the last state counts.
  func tell(leds: UInt32) {
    guard isWelcome else { return }
    var body = pinhole_input_leds()
    body.leds = leds
    let isSent = send(InputWire.bytes(PINHOLE_INPUT_LEDS, body))
    ledsDue = isSent ? nil : leds
    rewatch()
  }

  /// Says why it is over, if there is room.
  func refuse(_ code: pinhole_input_error_code, _ text: String) {
    var body = pinhole_input_error()
    body.code = code.rawValue
    InputWire.write(text, to: &body.text)
    _ = send(InputWire.bytes(PINHOLE_INPUT_ERROR, body))
  }

  /// - Returns: false when the socket is full.
  private func send(_ bytes: [UInt8]) -> Bool {
    let raw = socket.raw
    let result = bytes.withUnsafeBytes { bytes in
      Result { () throws(Errno) in try UnixSocket.send(raw, bytes, dontWait: true) }
    }
    // Who is gone is found out by reading.
    if case .failure(let error) = result { return error.code != EAGAIN }
    return true
  }

  private func rewatch() {
    guard let token else { return }
    try? loop.change(token, to: ledsDue == nil ? .readable : [.readable, .writable])
  }

  /// The pause is over: its events may be taken again, or it has said nothing for too long.
  private func watch() {
    guard isWelcome else {
      refuse(PINHOLE_INPUT_ERROR_TIMEOUT, "no HELLO within 5 seconds")
      return ended(self, "it did not introduce itself")
    }
    guard token == nil else { return }
    do throws(Errno) {
      token = try loop.watch(socket.raw, for: .readable) { [unowned self] in turn($0) }
      rewatch()
    } catch { ended(self, "\(error)") }
  }

  private func turn(_ events: EventLoop.Events) {
    if events.contains(.writable), let ledsDue { tell(leds: ledsDue) }
    for _ in 0..<Self.messagesPerTurn {
      let wait = rate.wait(now: Clock.now)
      guard wait == 0 else { return rest(wait) }
      do throws(Errno) {
        guard let (message, hadDescriptors) = try receive() else { return }
        guard !message.isEmpty else { return ended(self, nil) }
        guard !hadDescriptors else {
          let text = "descriptors, for which there is no use"
          refuse(PINHOLE_INPUT_ERROR_MALFORMED, text)
          return ended(self, text)
        }
        do throws(InputWire.Malformed) {
          let parsed = try message.withUnsafeBytes { bytes in
            Result { () throws(InputWire.Malformed) in try InputWire.parse(bytes) }
          }.get()
          if case .events(_, _, _, let events) = parsed { rate.take(events.count, now: Clock.now) }
          try received(parsed, self)
        } catch {
          refuse(PINHOLE_INPUT_ERROR_MALFORMED, error.text)
          return ended(self, error.text)
        }
      } catch {
        return ended(self, error.code == ECONNRESET ? nil : "\(error)")
      }
    }
  }

  /// Takes nothing until its rate allows for it; the socket fills up meanwhile.
  private func rest(_ nanoseconds: UInt64) {
    if let token { loop.unwatch(token) }
    token = nil
    pause?.arm(after: nanoseconds)
  }

  /// - Returns: nil when there is nothing to read, empty at the end; and whether descriptors came.
  private func receive() throws(Errno) -> (message: [UInt8], hadDescriptors: Bool)? {
    var bytes = [UInt8](repeating: 0, count: Int(PINHOLE_INPUT_MAX_MESSAGE) + 1)
    let (raw, sender) = (socket.raw, socket.sender)
    var fds: [CInt] = []
    do throws(Errno) {
      let received = try bytes.withUnsafeMutableBytes { room in
        Result { () throws(Errno) in
          try UnixSocket.receive(
            raw, into: room, fds: &fds, maxFDs: 0, dontWait: true, from: sender)
        }
      }.get()
      // A message that is too long is found by its size.
      let isWhole = received.count < bytes.count
      bytes.removeSubrange(received.count...)
      return (bytes, received.truncated && isWhole)
    } catch {
      if error.code == EAGAIN { return nil }
      throw error
    }
  }
}
