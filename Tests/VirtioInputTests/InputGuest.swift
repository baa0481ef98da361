import FakeGuest
import Glibc
import Linux
import PinholeInput
import Testing

/// `pinhole input` as a process of its own.
final class InputProcess {
  let child: ChildProcess
  let directory: TemporaryDirectory
  let control: String

  /// - Parameter qmp: a QMP socket instead of devices.
  init(_ options: [String] = [], qmp: String? = nil) throws {
    let directory = try TemporaryDirectory()
    self.directory = directory
    control = directory.file("control")
    let log = directory.file("log")
    let out = try OwnedFD.open(log, O_WRONLY | O_CREAT | O_APPEND)
    let program = Puncher.defaultProgram.split(separator: "/").dropLast().joined(separator: "/")
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    let devices = ["keyboard", "tablet", "mouse"].flatMap { ["--\($0)", directory.file($0)] }
    child = try ChildProcess(
      ["/\(program)/pinhole-input", "--control-socket", control] + sandbox + options
        + (qmp.map { ["--qmp", $0] } ?? devices), fds: [(out.raw, 1), (out.raw, 2)])
    try wait("it to serve") { self.log.contains("controlled on") }
  }

  var log: String {
    WholeFile.text(directory.file("log")) ?? ""
  }

  func wait(_ what: String, _ isDone: () throws -> Bool) throws {
    // Generous: under a sanitizer on a busy machine a start takes many times what it takes else.
    let deadline = Clock.now + 200_000_000_000
    while try !isDone() {
      try #require(child.status == nil, "pinhole-input ended: \(log)")
      try #require(Clock.now < deadline, "waited in vain for \(what): \(log)")
      usleep(1000)
    }
  }

  /// A controller that was accepted.
  func controller(_ name: String = "test") throws -> InputClient {
    let client = try InputClient(path: control, name: name)
    guard case .connected = try client.next(timeout: 20_000) else {
      throw GuestError.timedOut("the answer to HELLO")
    }
    return client
  }
}

/// A driver of an input device, as Linux has it: 64 buffers of 8 bytes that wait for events, unless
/// more are wanted.
final class InputGuest {
  let front: VhostUserFrontEnd
  let ram: GuestRAM
  private(set) var events: SplitRing
  private(set) var status: SplitRing
  private let pages: GuestPages
  private var seen: [InputEvent] = []
  private var heads: [UInt16: UInt64] = [:]
  private lazy var free = (0..<UInt64(events.size)).map { pages.start + $0 * 8 }
  static let buffers: UInt16 = 64

  init(_ path: String, eventIndex: Bool = true, buffers: UInt16 = InputGuest.buffers) throws {
    ram = try GuestRAM(size: 1 << 20)
    var options = VhostUserFrontEnd.Options()
    options.display = false
    front = try VhostUserFrontEnd(path: path, ram: ram, options)
    pages = try ram.allocate(bytes: 2 * Self.lamps)
    events = try SplitRing(ram, size: buffers, indirect: false, eventIndex: eventIndex)
    status = try SplitRing(ram, size: buffers, indirect: false, eventIndex: eventIndex)
    try front.start(
      features: 1 << 32 | (eventIndex ? 1 << 29 : 0), queues: [events, status])
  }

  /// The next driver behind a front-end whose guest has reset the device.
  init(after old: InputGuest) throws {
    front = old.front
    ram = old.ram
    pages = old.pages
    events = try SplitRing(ram, size: Self.buffers, indirect: false, eventIndex: true)
    status = try SplitRing(ram, size: Self.buffers, indirect: false, eventIndex: true)
    try front.start(features: 1 << 32 | 1 << 29, queues: [events, status])
  }

  /// Gives all buffers to the device.
  func fill(length: UInt32 = 8) throws {
    while events.room > 0 {
      let address = free.removeLast()
      let head = try events.add([.init(address, length, deviceWrites: true)])
      heads[head] = address
    }
    if events.publish() { try front.kick(0) }
  }

  /// Takes the events that have come, and gives the buffers back if wanted.
  func take(refill: Bool = true) throws -> [InputEvent] {
    var new: [InputEvent] = []
    while let used = try events.reap() {
      #expect(used.length == 8)
      let known = heads.removeValue(forKey: used.head)
      let address = try #require(known)
      free.append(address)
      let raw = ram.pointer(address)
      new.append(
        InputEvent(
          type: raw.load(as: UInt16.self), code: raw.load(fromByteOffset: 2, as: UInt16.self),
          value: raw.load(fromByteOffset: 4, as: Int32.self)))
    }
    if refill, !new.isEmpty { try fill() }
    return new
  }

  /// Waits until so many events have come.
  func wait(for count: Int, refill: Bool = true) throws -> [InputEvent] {
    var all = seen
    let deadline = Clock.now + 20_000_000_000
    while all.count < count {
      try #require(Clock.now < deadline, "\(all.count) of \(count) events came: \(all)")
      let new = try take(refill: refill)
      all += new
      if new.isEmpty { usleep(500) }
    }
    seen = Array(all.dropFirst(count))
    return Array(all.prefix(count))
  }

  /// Where the states of lamps are, behind the buffers of events: 1024 of either at most.
  private static let lamps = 8192

  /// Switches lamps as Linux does: one buffer for each.
  func switchLed(_ code: UInt16, _ value: Int32, length: UInt32 = 8) throws {
    try switchLeds([(code, value)], length: length)
  }

  /// Switches lamps with one kick, and waits until all of that is taken.
  func switchLeds(_ states: [(code: UInt16, value: Int32)], length: UInt32 = 8) throws {
    var heads: [UInt16] = []
    for (index, state) in states.enumerated() {
      let address = pages.start + UInt64(Self.lamps + index * 8)
      let raw = ram.pointer(address)
      raw.storeBytes(of: EventType.led, as: UInt16.self)
      raw.storeBytes(of: state.code, toByteOffset: 2, as: UInt16.self)
      raw.storeBytes(of: state.value, toByteOffset: 4, as: Int32.self)
      heads.append(try status.add([.init(address, length)]))
    }
    if status.publish() { try front.kick(1) }
    let deadline = Clock.now + 20_000_000_000
    while let head = heads.first {
      if let used = try status.reap() {
        #expect(used.head == head)
        heads.removeFirst()
        continue
      }
      try #require(Clock.now < deadline, "\(heads.count) of \(states.count) were not taken")
      usleep(500)
    }
  }

  /// What the driver reads after it has selected something.
  func configuration(_ select: UInt8, _ subselect: UInt8, count: Int = 136) throws -> [UInt8] {
    var space = [UInt8](repeating: 0, count: 136)
    space[0] = select
    space[1] = subselect
    try front.writeConfig(offset: 0, space)
    return try front.readConfig(offset: 0, count: count)
  }
}

let synchronize = InputEvent(type: EventType.synchronize, code: 0, value: 0)
