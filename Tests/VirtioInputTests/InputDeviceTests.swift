import FakeGuest
import Glibc
import Linux
import PinholeInput
import Testing

/// The program, a controller and a guest's driver.
@Suite struct InputDeviceTests {
  @Test func tellsWhatItIs() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    let name = try keyboard.configuration(0x01, 0)
    #expect(name[2] == 16)
    #expect(String(decoding: name[8..<24], as: UTF8.self) == "Pinhole keyboard")
    #expect(try keyboard.configuration(0x03, 0)[2] == 8)
    // Keys 1 to 248, the guest's own repetition, three lamps, no axes.
    let keys = try keyboard.configuration(0x11, 1)
    #expect(keys[2] == 32)
    #expect(keys[8] == 0xfe && keys[9] == 0xff && keys[39] == 0x01)
    #expect(try keyboard.configuration(0x11, 0x14)[2] == 1)
    #expect(try keyboard.configuration(0x11, 0x11)[8] == 0b111)
    #expect(try keyboard.configuration(0x11, 3)[2] == 0)
    #expect(try keyboard.configuration(0x12, 0)[2] == 0)
    #expect(try keyboard.configuration(0xff, 0xff)[2] == 0)
  }

  /// Three devices that a guest can tell apart, with all that a mouse has on two of them.
  @Test func eachIsADeviceOfItsOwn() throws {
    let process = try InputProcess()
    let pointer: [UInt8] = [UInt8](repeating: 0, count: 34) + [0xff]
    let expected: [(name: String, product: UInt8, keys: [UInt8]?, relative: [UInt8])] = [
      ("keyboard", 1, nil, []), ("mouse", 2, pointer, [0b0100_0011, 1]),
      ("tablet", 3, pointer, [0b0100_0000, 1]),
    ]
    for (name, product, keys, relative) in expected {
      let guest = try InputGuest(process.directory.file(name))
      let identity = try guest.configuration(0x03, 0)
      #expect(identity[8..<16] == [6, 0, 0xf4, 0x1a, product, 0, 1, 0], "\(name)")
      func bits(_ type: UInt8) throws -> [UInt8] {
        let answer = try guest.configuration(0x11, type)
        return Array(answer[8..<8 + Int(answer[2])])
      }
      if let keys { #expect(try bits(1) == keys, "\(name)") }
      #expect(try bits(2) == relative, "\(name)")
    }
  }

  @Test func tellsItsAxesInWhateverSize() throws {
    let process = try InputProcess()
    let tablet = try InputGuest(process.directory.file("tablet"))
    let info = try tablet.configuration(0x12, 1)
    #expect(info[2] == 20)
    #expect(Array(info[8..<16]) == [0, 0, 0, 0, 0xff, 0x7f, 0, 0])
    // Old front-ends ask for the union's 128 bytes, others byte by byte, some for too much.
    #expect(try tablet.configuration(0x12, 1, count: 128) == Array(info.prefix(128)))
    #expect(try tablet.front.readConfig(offset: 2, count: 1) == [20])
    #expect(try tablet.front.readConfig(offset: 130, count: 100) == .init(repeating: 0, count: 100))
    try tablet.front.writeConfig(offset: 0, [0x11])
    try tablet.front.writeConfig(offset: 1, [3])
    #expect(try tablet.front.readConfig(offset: 0, count: 3) == [0x11, 3, 1])
  }

  @Test(arguments: [true, false])
  func guestReadsWhatWasSent(eventIndex: Bool) throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"), eventIndex: eventIndex)
    let tablet = try InputGuest(process.directory.file("tablet"), eventIndex: eventIndex)
    let mouse = try InputGuest(process.directory.file("mouse"), eventIndex: eventIndex)
    for guest in [keyboard, tablet, mouse] { try guest.fill() }
    let controller = try process.controller()
    #expect(controller.devices == [.keyboard, .tablet, .mouse])
    for code: UInt16 in 1...120 {
      try controller.send([.key(code, isDown: true)])
      try controller.send([.key(code, isDown: false)])
    }
    for code: UInt16 in 1...120 {
      #expect(
        try keyboard.wait(for: 4) == [
          .key(code, isDown: true), synchronize, .key(code, isDown: false), synchronize,
        ])
    }
    // A place, a button and a wheel of one moment.
    try controller.send(
      [.key(PointerButton.left, isDown: true), .relative(Axis.wheel, -2)],
      at: InputPlace(x: 320, y: 0, width: 640, height: 480))
    #expect(
      try tablet.wait(for: 5) == [
        .absolute(Axis.x, 16409), .absolute(Axis.y, 34), .key(PointerButton.left, isDown: true),
        .relative(Axis.wheel, -2), synchronize,
      ])
    try controller.send([.relative(Axis.x, 7), .relative(Axis.y, -3)])
    #expect(
      try mouse.wait(for: 3) == [.relative(Axis.x, 7), .relative(Axis.y, -3), synchronize])
    // The button goes up where it went down, and what comes now is the mouse's.
    try controller.send([.key(PointerButton.left, isDown: false)])
    try controller.send([.key(PointerButton.right, isDown: true)])
    #expect(
      try tablet.wait(for: 2) == [.key(PointerButton.left, isDown: false), synchronize])
    #expect(
      try mouse.wait(for: 2) == [.key(PointerButton.right, isDown: true), synchronize])
  }

  @Test func releasesWhatAControllerHeld() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    try keyboard.fill()
    var first: InputClient? = try process.controller("first")
    let second = try process.controller("second")
    try first?.send([.key(42, isDown: true), .key(30, isDown: true)])
    #expect(
      try keyboard.wait(for: 3) == [
        .key(42, isDown: true), .key(30, isDown: true), synchronize,
      ])
    try second.send([.key(42, isDown: true), .key(31, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(31, isDown: true), synchronize])
    first = nil
    // The second still holds 42.
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: false), synchronize])
    try second.send([.key(42, isDown: false)])
    #expect(try keyboard.wait(for: 2) == [.key(42, isDown: false), synchronize])
  }

  @Test func makesUpForWhatAGuestDidNotTake() throws {
    let process = try InputProcess(["--max-rate", "1000000"])
    let tablet = try InputGuest(process.directory.file("tablet"))
    try tablet.fill()
    let controller = try process.controller()
    try controller.send([.key(PointerButton.left, isDown: true)])
    #expect(
      try tablet.wait(for: 2, refill: false)
        == [.key(PointerButton.left, isDown: true), synchronize])
    // The guest stands still: far more than its 64 buffers and all that may wait.
    for step: Int32 in 0..<2000 {
      try controller.move(to: InputPlace(x: step, y: step, width: 2000, height: 2000))
      while controller.hasWaiting { try controller.flush() }
    }
    try controller.send([.key(PointerButton.left, isDown: false)])
    _ = try tablet.wait(for: 62, refill: false)
    // The socket may have been full.
    try process.wait("everything sent") {
      try controller.flush()
      return !controller.hasWaiting
    }
    usleep(200_000)
    try tablet.fill()
    var last: [UInt16: Int32] = [:]
    var isUp = false
    let deadline = Clock.now + 20_000_000_000
    while !isUp || last[Axis.x] != 32759 || last[Axis.y] != 32759 {
      try #require(Clock.now < deadline, "the button is up: \(isUp), place: \(last)")
      for event in try tablet.take() {
        if event == .key(PointerButton.left, isDown: false) { isUp = true }
        if event.type == EventType.absolute { last[event.code] = event.value }
      }
      usleep(500)
    }
  }

  @Test func tellsOfLamps() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    let controller = try process.controller()
    try keyboard.switchLed(1, 1)
    #expect(try controller.next(timeout: 20_000) == .leds(0b10))
    try keyboard.switchLed(0, 1)
    #expect(try controller.next(timeout: 20_000) == .leds(0b11))
    // Who comes later is told at once.
    #expect(try process.controller().leds == 0b11)
    try keyboard.switchLed(1, 0)
    #expect(try controller.next(timeout: 20_000) == .leds(0b01))
    // A reset puts them out.
    try keyboard.front.reset()
    #expect(try controller.next(timeout: 20_000) == .leds(0))
  }

  /// A turn of the loop serves 512 requests of a queue; no kick comes for those behind them.
  @Test func whatATurnDoesNotServeTheNextOneDoes() throws {
    let process = try InputProcess(["--max-rate", "1000000"])
    let keyboard = try InputGuest(process.directory.file("keyboard"), buffers: 1024)
    let tablet = try InputGuest(process.directory.file("tablet"))
    try tablet.fill()
    let controller = try process.controller()
    let events: [InputEvent] = (0..<200).flatMap { _ in
      [.key(30, isDown: true), synchronize, .key(30, isDown: false), synchronize]
    }
    for event in events where event != synchronize {
      try controller.send([event])
      while controller.hasWaiting { try controller.flush() }
    }
    // What this one sent last has come, and so has the rest.
    try controller.move(to: InputPlace(x: 0, y: 0, width: 1, height: 1))
    while controller.hasWaiting { try controller.flush() }
    _ = try tablet.wait(for: 3)
    try keyboard.fill()
    #expect(try keyboard.wait(for: events.count, refill: false) == events)
    try keyboard.switchLeds(Array(repeating: (0, 1), count: 600) + [(1, 1)])
    while let event = try controller.next(timeout: 20_000), event != .leds(0b11) {}
    #expect(try process.controller().leds == 0b11)
  }

  /// What one guest was typed and did not take is not typed at the next one.
  @Test func theNextGuestGetsNothingOfTheLast() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    let tablet = try InputGuest(process.directory.file("tablet"))
    try tablet.fill()
    let controller = try process.controller()
    for code: UInt16 in 16...25 {
      try controller.send([.key(code, isDown: true)])
      try controller.send([.key(code, isDown: false)])
    }
    // What this one sent last has come, and so has the rest.
    try controller.move(to: InputPlace(x: 0, y: 0, width: 1, height: 1))
    _ = try tablet.wait(for: 3)
    try keyboard.front.reset()
    let next = try InputGuest(after: keyboard)
    try next.fill()
    try controller.send([.key(32, isDown: true)])
    #expect(try next.wait(for: 2) == [.key(32, isDown: true), synchronize])
  }

  @Test func goesOnAfterPauseAndReset() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    try keyboard.fill()
    let controller = try process.controller()
    try controller.send([.key(30, isDown: true)])
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
    try keyboard.front.pause()
    try controller.send([.key(30, isDown: false)])
    try controller.send([.key(31, isDown: true)])
    usleep(100_000)
    try keyboard.front.resume()
    // What went up meanwhile goes up; what went down while nobody looked does not come late.
    #expect(
      try keyboard.wait(for: 3) == [synchronize, .key(30, isDown: false), synchronize])
    // Another guest at the same socket.
    try keyboard.front.reset()
    let next = try InputGuest(after: keyboard)
    try next.fill()
    try controller.send([.key(32, isDown: true)])
    #expect(try next.wait(for: 2) == [.key(32, isDown: true), synchronize])
  }

  @Test func survivesBadDrivers() throws {
    let process = try InputProcess()
    let keyboard = try InputGuest(process.directory.file("keyboard"))
    // Buffers too small for an event come back empty, and the event goes into the next one.
    let small = try keyboard.events.add([.init(0x3000, 4, deviceWrites: true)])
    try keyboard.fill()
    let controller = try process.controller()
    try controller.send([.key(30, isDown: true)])
    let deadline = Clock.now + 20_000_000_000
    var used: SplitRing.Used?
    while used == nil, Clock.now < deadline { used = try keyboard.events.reap() }
    #expect(used?.head == small && used?.length == 0)
    #expect(try keyboard.wait(for: 2) == [.key(30, isDown: true), synchronize])
    try keyboard.switchLed(0, 1, length: 3)
    // A ring that is nonsense stops that ring; the others of the process live on.
    keyboard.events.poke(0, address: ~0, length: ~0, flags: 2)
    keyboard.events.forceAvailableIndex(40_000)
    try keyboard.front.kick(0)
    try controller.send([.key(30, isDown: false)])
    let tablet = try InputGuest(process.directory.file("tablet"))
    try tablet.fill()
    try controller.move(to: InputPlace(x: 0, y: 0, width: 1, height: 1))
    #expect(try tablet.wait(for: 3).count == 3)
    #expect(process.child.status == nil)
  }
}
