import Glibc
import InputControl
import Linux
import Logging
import PinholeInput
import PinholeProtocol
import VirtioInput

/// Controllers that say anything to `pinhole input`.
enum ControlTarget {
  /// What the bytes of an input mean; most begin with the number of the controller.
  enum Step: UInt8, CaseIterable {
    case connect
    /// Gifts, bytes as they are.
    case raw
    case hello
    /// EVENTS with a right header, of whatever events.
    case events
    /// A key that exists goes down or up.
    case key
    case read
    case turn
    case lamps
    case leave
  }

  /// A device that keeps account of what is down.
  private final class Device: VirtioInput.InputTarget {
    let profile: InputProfile
    var leds: UInt32 = 0 { didSet { ledsChanged() } }
    var ledsChanged: () -> Void = {}
    private(set) var held: Set<UInt16> = []

    init(_ kind: InputProfile.Kind) { profile = InputProfile(kind, name: "fuzzed") }

    func submit(_ moment: [InputEvent]) {
      claim(!moment.isEmpty, "a moment without events")
      for event in moment {
        switch event.type {
        case EventType.key:
          claim(profile.has(event), "key \(event.code) of a \(profile.kind)")
          if event.value == 1 {
            claim(held.insert(event.code).inserted, "\(event.code) goes down twice")
          } else {
            claim(event.value == 0, "a key's value is \(event.value)")
            claim(held.remove(event.code) != nil, "\(event.code) goes up and was not down")
          }
        case EventType.absolute:
          claim(event.code <= Axis.y, "axis \(event.code)")
          claim((0...InputProfile.axisMaximum).contains(event.value), "a place of \(event.value)")
        default: claim(event.type == EventType.relative, "an event of type \(event.type)")
        }
      }
    }
  }

  static func run(_ input: consuming Input) throws {
    var input = input
    let loop = try EventLoop()
    let devices = [Device(.keyboard), Device(.tablet), Device(.tablet), Device(.mouse)]
    var options = ControlServer.Options()
    options.maxControllers = 4
    options.maxRate = 1_000_000
    let server = ControlServer(
      InputHub(devices), options: options, loop: loop,
      log: Logger(label: "fuzz") { _ in SwiftLogNoOpLogHandler() })
    var peers: [Peer] = []
    for _ in 0..<256 where !input.isEmpty {
      try step(&input, loop, server, devices, &peers)
    }
    for peer in peers { peer.close() }
    for _ in 0..<8 { try loop.turn(timeout: 0) }
    for _ in 0..<64 where devices.contains(where: { !$0.held.isEmpty }) {
      try loop.turn(timeout: 0)
    }
    for device in devices {
      claim(device.held.isEmpty, "all controllers have left, and \(device.held) are down")
    }
    server.stop()
  }

  private static func step(
    _ input: inout Input, _ loop: EventLoop, _ server: ControlServer, _ devices: [Device],
    _ peers: inout [Peer]
  ) throws {
    func peer(_ input: inout Input) -> Peer? {
      let number = Int(input.u8())
      return peers.isEmpty ? nil : peers[number % peers.count]
    }
    switch Step(rawValue: input.u8() % UInt8(Step.allCases.count)) {
    case .connect:
      guard peers.count < 8 else { return }
      let pair = try UnixSocket.Pair(.seqpacket)
      pair.split { first, second in
        server.serve(first)
        peers.append(Peer(second))
      }
    case .raw:
      let gifts = Peer.gifts(&input)
      let target = peer(&input)
      try target?.send(input.take(Int(input.u16()) % 400), gifts: gifts)
    case .hello:
      var hello = pinhole_input_hello()
      hello.magic = PINHOLE_INPUT_MAGIC
      hello.version = UInt32(input.u8() & 3)
      let target = peer(&input)
      try target?.send(InputWire.bytes(PINHOLE_INPUT_HELLO, hello))
    case .events:
      let target = peer(&input)
      let (output, width, height) = (input.number(), input.number(), input.number())
      let events = (0..<Int(input.u8() % 40)).map { _ in
        InputEvent(
          type: UInt16(input.u8() & 3), code: UInt16(truncatingIfNeeded: input.number()),
          value: Int32(bitPattern: input.number()))
      }
      try target?.send(InputWire.events(events, output: output, width: width, height: height))
    case .key:
      let target = peer(&input)
      let byte = input.u8()
      let code = byte & 1 == 0 ? UInt16(input.u8()) : 0x110 + UInt16(input.u8() & 7)
      let event = InputEvent.key(code, isDown: byte & 2 != 0)
      try target?.send(InputWire.events([event], output: 0, width: 1, height: 1))
    case .read: while peer(&input)?.receive(limit: 1024) != nil {}
    case .turn: for _ in 0...(input.u8() & 7) { try loop.turn(timeout: 0) }
    case .lamps: devices[0].leds = UInt32(input.u8())
    case .leave, nil: peer(&input)?.close()
    }
  }
}

/// Controllers that behave.
enum ControlSeeds {
  private typealias Step = ControlTarget.Step

  static var all: [String: [UInt8]] {
    [
      "keys": hello(0) + key(0, 30, true) + key(0, 30, false) + turn + read(0),
      "leaves": hello(0) + key(0, 42, true) + key(0, 30, true) + turn + [Step.leave.rawValue, 0]
        + turn,
      "two": hello(0) + hello(1) + key(0, 42, true) + key(1, 42, true) + turn
        + [Step.leave.rawValue, 0] + turn + key(1, 42, false) + turn,
      "pointer": hello(0)
        + [Step.events.rawValue, 0, 1, 100, 100, 3, 3, 0, 50, 3, 1, 60, 2, 8, 1]
        + button(0, true) + turn + button(0, false) + turn,
      "lamps": hello(0) + [Step.lamps.rawValue, 2] + turn + read(0),
      "rubbish": hello(0) + [Step.raw.rawValue, 1, 3, 0, 9, 0] + [UInt8](repeating: 7, count: 9)
        + turn + hello(1) + key(1, 30, true) + turn,
    ]
  }

  private static func hello(_ number: UInt8) -> [UInt8] {
    [Step.connect.rawValue, Step.hello.rawValue, 1, number] + turn
  }
  private static func key(_ number: UInt8, _ code: UInt8, _ isDown: Bool) -> [UInt8] {
    [Step.key.rawValue, number, isDown ? 2 : 0, code]
  }
  private static func button(_ number: UInt8, _ isDown: Bool) -> [UInt8] {
    [Step.key.rawValue, number, isDown ? 3 : 1, 0]
  }
  private static func read(_ number: UInt8) -> [UInt8] { [Step.read.rawValue, number] }
  private static let turn = [Step.turn.rawValue, 3]
}
