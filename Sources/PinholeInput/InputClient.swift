import Glibc
import Linux
import PinholeProtocol

/// A controller's connection to `pinhole input --control-socket PATH`.
///
/// ```swift
/// let input = try InputClient(path: "/run/pinhole/input", name: "my viewer")
/// try input.send([.key(30, isDown: true)])  // KEY_A
/// try input.send([.key(30, isDown: false)])
/// try input.move(to: InputPlace(x: 320, y: 200, width: 640, height: 480))
/// ```
///
/// Nothing here waits: what the socket has no room for is kept, and goes out with the next call
/// or ``flush()``. Motions that wait are replaced by newer ones; keys never get lost. When the
/// connection ends, all keys that this controller holds go up. It belongs to one thread.
public final class InputClient {
  /// What the other side tells.
  public enum Event: Sendable, Equatable {
    /// We were accepted; the first event.
    case connected(Devices)
    /// The guest switched lamps: bit `LED_NUML` (0), `LED_CAPSL` (1), `LED_SCROLLL` (2).
    case leds(UInt32)
  }

  /// What there is to control.
  public struct Devices: OptionSet, Sendable {
    /// `PINHOLE_INPUT_*` bits.
    public let rawValue: UInt32
    /// Wraps `PINHOLE_INPUT_*` bits.
    public init(rawValue: UInt32) { self.rawValue = rawValue }
    /// A keyboard.
    public static let keyboard = Devices(rawValue: PINHOLE_INPUT_KEYBOARD)
    /// A pointer that takes places.
    public static let tablet = Devices(rawValue: PINHOLE_INPUT_TABLET)
    /// A pointer that takes motions.
    public static let mouse = Devices(rawValue: PINHOLE_INPUT_MOUSE)
  }

  /// Messages that may wait for room in the socket.
  public static let maxWaiting = 256

  /// What there is to control; empty before ``Event/connected(_:)``.
  public private(set) var devices: Devices = []
  /// The lamps of the guest's keyboard.
  public private(set) var leds: UInt32 = 0
  private let socket: OwnedFD
  private var waiting: [(bytes: [UInt8], isMotion: Bool)] = []

  /// Connects and introduces itself.
  ///
  /// - Parameters:
  ///   - path: the control socket.
  ///   - name: tells people who controls; cut at 31 bytes.
  ///   - patience: milliseconds to wait while nobody accepts; 0 for a loop that must not wait.
  /// - Throws: ``InputError/cannotConnect(path:_:)``, also when nobody has accepted for so long.
  public convenience init(
    path: String, name: String, patience: UInt32 = UnixSocket.patience
  ) throws(InputError) {
    let socket: OwnedFD
    do throws(Errno) {
      socket = try UnixSocket.connect(path, kind: .seqpacket, patience: patience)
    } catch {
      throw .cannotConnect(path: path, error)
    }
    try self.init(socket: socket, name: name)
  }

  /// Takes over a connected `SOCK_SEQPACKET` socket and introduces itself.
  public init(socket: consuming OwnedFD, name: String) throws(InputError) {
    self.socket = socket
    var hello = pinhole_input_hello()
    hello.magic = PINHOLE_INPUT_MAGIC
    hello.version = PINHOLE_INPUT_VERSION
    InputWire.write(name, to: &hello.name)
    try send(InputWire.bytes(PINHOLE_INPUT_HELLO, hello), isMotion: false)
  }

  /// Readable when ``next(timeout:)`` has something to return, writable when ``flush()`` has room.
  public var fd: CInt { socket.raw }

  /// Something waits for room in the socket: call ``flush()`` when ``fd`` is writable.
  public var hasWaiting: Bool { !waiting.isEmpty }

  /// Sends what happened at one moment: at most 32 events.
  ///
  /// - Parameters:
  ///   - events: in their order.
  ///   - place: where the pointer is; sent before the events.
  /// - Throws: ``InputError/notTaken`` when too much waits; the connection is of no use then.
  public func send(_ events: [InputEvent], at place: InputPlace? = nil) throws(InputError) {
    var all = events
    if let place {
      all = [.absolute(Axis.x, place.x), .absolute(Axis.y, place.y)] + events
    }
    guard !all.isEmpty else { return }
    guard all.count <= Int(PINHOLE_INPUT_MAX_EVENTS) else {
      throw .malformed("\(all.count) events at one moment")
    }
    let isMotion = all.allSatisfy { $0.type == EventType.absolute }
    let bytes = InputWire.events(
      all, output: place?.output ?? 0, width: place?.width ?? 0, height: place?.height ?? 0)
    try send(bytes, isMotion: isMotion)
  }

  /// Moves the pointer.
  public func move(to place: InputPlace) throws(InputError) { try send([], at: place) }

  /// Sends what waits, as far as there is room.
  public func flush() throws(InputError) {
    while let first = waiting.first {
      do throws(Errno) {
        let raw = socket.raw
        _ = try first.bytes.withUnsafeBytes { bytes in
          Result { () throws(Errno) in try UnixSocket.send(raw, bytes, dontWait: true) }
        }.get()
      } catch {
        if error.code == EAGAIN { return }
        // The other side may have said why it ended: the next read tells.
        if error.code != EPIPE, error.code != ECONNRESET { throw .system(error) }
      }
      waiting.removeFirst()
    }
  }

  private func send(_ bytes: [UInt8], isMotion: Bool) throws(InputError) {
    if isMotion, waiting.last?.isMotion == true { waiting.removeLast() }
    guard waiting.count < Self.maxWaiting else { throw .notTaken }
    waiting.append((bytes, isMotion))
    try flush()
  }

  /// Waits for the next event.
  ///
  /// - Parameter timeout: milliseconds, 0 to return at once, -1 to wait for ever.
  /// - Returns: nil when the time is up.
  /// - Throws: ``InputError``; the connection is of no use afterwards.
  public func next(timeout: CInt = -1) throws(InputError) -> Event? {
    let size = Int(PINHOLE_INPUT_MAX_MESSAGE) + 1
    let packet: [UInt8]
    do throws(Errno) {
      var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
      if try retrying("poll", { Glibc.poll(&poll, 1, timeout) }) == 0 { return nil }
      var bytes = [UInt8](repeating: 0, count: size)
      var fds: [CInt] = []
      let raw = socket.raw
      let received = try bytes.withUnsafeMutableBytes { room in
        Result { () throws(Errno) in
          try UnixSocket.receive(raw, into: room, fds: &fds, maxFDs: 0, dontWait: true)
        }
      }.get()
      packet = Array(bytes.prefix(received.count))
    } catch {
      if error.code == EAGAIN { return nil }
      throw error.code == ECONNRESET ? .closed : .system(error)
    }
    guard !packet.isEmpty else { throw .closed }
    let result: Result<Event, InputError>
    do throws(InputWire.Malformed) {
      result = try packet.withUnsafeBytes { bytes in
        Result { () throws(InputWire.Malformed) in try event(of: bytes) }
      }.get()
    } catch { throw .malformed(error.text) }
    return try result.get()
  }

  private func event(
    of packet: UnsafeRawBufferPointer
  ) throws(InputWire.Malformed) -> Result<Event, InputError> {
    switch try InputWire.type(of: packet) {
    case PINHOLE_INPUT_WELCOME.rawValue:
      let body: pinhole_input_welcome = try InputWire.load(packet)
      devices = Devices(rawValue: body.devices)
      leds = body.leds
      return .success(.connected(devices))
    case PINHOLE_INPUT_LEDS.rawValue:
      let body: pinhole_input_leds = try InputWire.load(packet)
      leds = body.leds
      return .success(.leds(leds))
    case PINHOLE_INPUT_ERROR.rawValue:
      let body: pinhole_input_error = try InputWire.load(packet)
      return .failure(.refused(code: body.code, text: InputWire.text(of: body.text)))
    case let other: throw InputWire.Malformed("message type \(other) is not known")
    }
  }
}
