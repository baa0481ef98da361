import PinholeInput
import Testing
import VirtioInput

/// Events on their way to a guest that does not take them.
@Suite struct PendingEventsTests {
  private let keyboard = InputProfile(.keyboard, name: "keyboard")
  private let tablet = InputProfile(.tablet, name: "tablet")

  /// All that would be given now.
  private func drain(_ pending: inout PendingEvents) -> [InputEvent] {
    var all: [InputEvent] = []
    while let event = pending.first() {
      all.append(event)
      pending.take()
    }
    return all
  }

  @Test func aThousandAndTwentyFourWaitAndNoMore() {
    var pending = PendingEvents(keyboard)
    // Each is a key and the end of its moment.
    for _ in 0..<512 { pending.add([.key(30, isDown: true)], isLive: true) }
    #expect(pending.dropped == 0)
    pending.add([.key(31, isDown: true)], isLive: true)
    #expect(pending.dropped == 1025, "all that waits goes with the one that has no room")
    #expect(drain(&pending) == [synchronize], "the guest knows of no key that is down")
    #expect(pending.isEmpty)
    // What a guest takes makes room for as many.
    for _ in 0..<2000 {
      pending.add([.key(30, isDown: true)], isLive: true)
      #expect(drain(&pending) == [.key(30, isDown: true), synchronize])
    }
    #expect(pending.dropped == 1025)
  }

  @Test func whatNobodyTookIsMadeUpFor() {
    var pending = PendingEvents(tablet)
    let button = PointerButton.left
    pending.add([.key(button, isDown: true), .absolute(Axis.x, 7)], isLive: true)
    #expect(drain(&pending).count == 3)
    pending.add([.key(button, isDown: false)], isLive: false)
    pending.add([.absolute(Axis.y, 9), .relative(Axis.wheel, 1)], isLive: false)
    #expect(pending.dropped == 3 && !pending.isEmpty)
    // While something is to be made up for, what comes is only remembered.
    pending.add([.absolute(Axis.x, 8)], isLive: true)
    #expect(pending.dropped == 4)
    #expect(
      drain(&pending) == [
        synchronize, .key(button, isDown: false), synchronize, .absolute(Axis.x, 8),
        .absolute(Axis.y, 9), synchronize,
      ])
  }

  @Test func whatADeviceDoesNotHaveIsLeftOut() {
    var pending = PendingEvents(keyboard)
    pending.add([.relative(Axis.x, 1)], isLive: true)
    pending.add([.key(PointerButton.left, isDown: true)], isLive: false)
    #expect(pending.isEmpty && pending.dropped == 0)
    pending.add(
      [.relative(Axis.x, 1), .key(30, isDown: true), .key(249, isDown: true)], isLive: true)
    #expect(drain(&pending) == [.key(30, isDown: true), synchronize])
  }

  @Test func aNewDriverKnowsOfNothing() {
    var pending = PendingEvents(tablet)
    let button = PointerButton.left
    pending.add([.key(button, isDown: true), .absolute(Axis.x, 7)], isLive: true)
    #expect(drain(&pending).count == 3)
    pending.add([.relative(Axis.wheel, 1)], isLive: true)
    pending.restart()
    #expect(pending.isEmpty && pending.first() == nil, "what waited was for the last one")
    pending.add([.key(button, isDown: false)], isLive: false)
    #expect(drain(&pending) == [synchronize], "it has seen no button go down, and no place")
    pending.add([.absolute(Axis.x, 8)], isLive: false)
    pending.restart()
    #expect(pending.isEmpty)
  }
}
