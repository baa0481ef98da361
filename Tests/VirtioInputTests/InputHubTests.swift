import InputControl
import PinholeInput
import Testing
import VirtioInput

/// What several controllers do to the same devices.
@Suite struct InputHubTests {
  private final class Keyboard: InputTarget {
    let profile = InputProfile(.keyboard, name: "keyboard")
    let leds: UInt32 = 0
    var ledsChanged: () -> Void = {}
    var events: [InputEvent] = []
    func submit(_ moment: [InputEvent]) { events += moment }
  }

  private let keyboard = Keyboard()
  private let hub: InputHub

  init() { hub = InputHub([keyboard]) }

  private func press(_ isDown: Bool, by controller: InputHub.Controller) {
    hub.submit(
      [.key(30, isDown: isDown)], output: 0, width: 640, height: 480, from: controller)
  }

  @Test func aKeyIsUpWhenTheLastOfItsHoldersHasLetGo() {
    press(true, by: 1)
    press(true, by: 2)
    #expect(keyboard.events == [.key(30, isDown: true)])
    press(false, by: 1)
    #expect(keyboard.events == [.key(30, isDown: true)], "the second one still holds it")
    press(false, by: 2)
    #expect(keyboard.events == [.key(30, isDown: true), .key(30, isDown: false)])
  }

  @Test func whoLeavesLetsGoForHimselfAlone() {
    press(true, by: 1)
    press(true, by: 2)
    hub.left(1)
    #expect(keyboard.events == [.key(30, isDown: true)])
    press(false, by: 1)
    #expect(keyboard.events.count == 1, "he does not hold it any more")
    hub.left(2)
    #expect(keyboard.events == [.key(30, isDown: true), .key(30, isDown: false)])
  }
}
