import InputControl
import PinholeInput
import Testing
import VirtioInput

/// Which pointer is whose.
@Suite struct InputPointerTests {
  private final class Target: InputTarget {
    let profile: InputProfile
    let leds: UInt32 = 0
    var ledsChanged: () -> Void = {}
    var events: [InputEvent] = []
    init(_ kind: InputProfile.Kind) { profile = InputProfile(kind, name: "test") }
    func submit(_ moment: [InputEvent]) { events += moment }
  }

  private let keyboard = Target(.keyboard)
  private let tablets = [Target(.tablet), Target(.tablet)]
  private let hub: InputHub

  init() { hub = InputHub([keyboard, tablets[0], tablets[1]]) }

  private func submit(_ events: [InputEvent], output: UInt32 = 0) {
    hub.submit(events, output: output, width: 640, height: 480, from: 1)
  }

  @Test func eachOutputHasItsTablet() {
    let corner = [InputEvent.absolute(Axis.x, 0), .absolute(Axis.y, 0)]
    submit(corner, output: 1)
    #expect(tablets.map(\.events.count) == [0, 2])
    // Buttons follow the pointer.
    submit([.key(PointerButton.left, isDown: true)])
    #expect(tablets[1].events.last == .key(PointerButton.left, isDown: true))
    submit(corner, output: 0)
    #expect(tablets.map(\.events.count) == [2, 3])
    // An output without a tablet of its own has the first one.
    submit(corner, output: 2)
    #expect(tablets.map(\.events.count) == [4, 3])
  }

  /// Guests repeat keys by themselves: what a controller repeats is neither pressed nor let go.
  @Test func repeatedKeysStayDown() {
    submit([.key(30, isDown: true)])
    for _ in 0..<3 { submit([InputEvent(type: EventType.key, code: 30, value: 2)]) }
    #expect(keyboard.events == [.key(30, isDown: true)])
    submit([.key(30, isDown: false)])
    #expect(keyboard.events == [.key(30, isDown: true), .key(30, isDown: false)])
  }
}
