import PinholeInput
import RFB
import Testing

@testable import VNC

struct KeyboardTests {
  private let us: KeyLayout
  private let german: KeyLayout

  init() throws {
    us = try KeyLayout(layout: "us")
    german = try KeyLayout(layout: "de", variant: "nodeadkeys")
  }

  /// The guest's keys as `+30` and `-30`.
  private func typed(_ inputs: [RFBInput], _ layout: KeyLayout) -> String {
    var keyboard = Keyboard(layout: layout, output: 0)
    return inputs.flatMap { keyboard.moments(of: $0) }.flatMap(\.events)
      .map { ($0.value == 1 ? "+" : "-") + "\($0.code)" }.joined(separator: " ")
  }
  private func down(_ keysym: UInt32, _ code: UInt32? = nil) -> RFBInput {
    .key(scanCode: code, keysym: keysym, isDown: true)
  }
  private func up(_ keysym: UInt32, _ code: UInt32? = nil) -> RFBInput {
    .key(scanCode: code, keysym: keysym, isDown: false)
  }

  @Test func aScanCodeIsTheKeyWhateverTheSymbol() {
    // KEY_Z says y on a German viewer; the guest decides.
    #expect(typed([down(0x79, 0x2c), up(0x79, 0x2c)], us) == "+44 -44")
    // Behind 0xE0: right Ctrl.
    #expect(typed([down(0xffe4, 0x9d), up(0xffe4, 0x9d)], us) == "+97 -97")
  }

  @Test func aSymbolWithoutAScanCodeIsLookedUp() {
    #expect(typed([down(0x61), up(0x61)], us) == "+30 -30")
    #expect(typed([down(0x79), up(0x79)], german) == "+44 -44")
    #expect(typed([down(0xff0d), up(0xff0d)], us) == "+28 -28")
    #expect(typed([down(0xffbe), up(0xffbe)], us) == "+59 -59")
    // A scan code that no keyboard has.
    #expect(typed([down(0x61, 0xff), up(0x61, 0xff)], us) == "+30 -30")
  }

  @Test func whatNeedsShiftGetsIt() {
    #expect(typed([down(0x41), up(0x41)], us) == "+42 +30 -30 -42")
    // The viewer holds Shift itself.
    #expect(typed([down(0xffe1), down(0x41), up(0x41), up(0xffe1)], us) == "+42 +30 -30 -42")
    // @ is AltGr and Q on a German keyboard.
    #expect(typed([down(0x40), up(0x40)], german) == "+100 +16 -16 -100")
  }

  @Test func shiftIsLiftedWhereTheGuestsKeyHasNone() {
    // On the viewer's French keyboard 1 is Shift and &.
    #expect(
      typed([down(0xffe1), down(0x31), up(0x31), up(0xffe1)], us) == "+42 -42 +2 +42 -2 -42")
    // Shift and an arrow mark text: that stays.
    #expect(typed([down(0xffe1), down(0xff51), up(0xff51)], us) == "+42 +105 -105")
  }

  @Test func theSameKeyGoesUpThatWentDown() {
    // A goes down, Shift goes up, a goes up: other keysym, same key. Viewers tell the first one.
    #expect(typed([down(0xffe1), down(0x41), up(0xffe1), up(0x41)], us) == "+42 +30 -42 -30")
    #expect(typed([up(0x41)], us) == "")
    // Others tell the second one, and the other way round.
    #expect(typed([down(0xffe1), down(0x41), up(0xffe1), up(0x61)], us) == "+42 +30 -42 -30")
    #expect(typed([down(0x61), down(0xffe1), up(0x41), up(0xffe1)], us) == "+30 +42 -30 -42")
    // Shift that was pressed for it goes up with it.
    #expect(typed([down(0x41), up(0x61)], us) == "+42 +30 -30 -42")
    #expect(typed([down(0x61), up(0x62), up(0x61)], us) == "+30 -30", "another key")
    // A viewer repeats what is held, by then with Shift.
    #expect(
      typed([down(0x61), down(0xffe1), down(0x41), up(0x41), up(0xffe1), down(0x61)], us)
        == "+30 +42 -30 +30 -30 -42 +30")
    // Then it can go down again.
    #expect(typed([down(0x41), up(0x61), down(0x61), up(0x61)], us) == "+42 +30 -30 -42 +30 -30")
  }

  @Test func repetitionsAreTheGuests() {
    #expect(typed([down(0x61), down(0x61), down(0x61), up(0x61)], us) == "+30 -30")
    #expect(typed([down(0x61, 30), down(0x61, 30), up(0x61, 30)], us) == "+30 -30")
  }

  @Test func charactersHaveTwoNumbers() {
    // U+00E4 as Latin-1 keysym and as Unicode keysym.
    #expect(typed([down(0xe4)], german) == "+40")
    #expect(typed([down(0x0100_00e4)], german) == "+40")
    #expect(typed([down(0x0100_4e2d)], german) == "")
  }

  @Test func anUnknownLayoutIsNamed() {
    #expect(throws: KeyLayout.Unknown.self) { try KeyLayout(layout: "nowhere") }
  }

  @Test func thePointerIsWhereTheViewerHasIt() throws {
    var keyboard = Keyboard(layout: us, output: 3)
    func moment(_ x: Int, _ buttons: UInt8) -> Keyboard.Moment? {
      keyboard.moments(of: .pointer(x: x, y: 7, width: 640, height: 480, buttons: buttons)).first
    }
    let moved = moment(5, 0)
    #expect(moved?.place == InputPlace(output: 3, x: 5, y: 7, width: 640, height: 480))
    #expect(moved?.events == [])
    #expect(moment(5, 1)?.events == [.key(PointerButton.left, isDown: true)])
    #expect(
      moment(6, 4)?.events == [
        .key(PointerButton.left, isDown: false), .key(PointerButton.right, isDown: true),
      ])
    #expect(moment(6, 0x0c)?.events == [.relative(Axis.wheel, 1)])
    #expect(moment(6, 0x04)?.events == [])
    #expect(
      moment(6, 0x54)?.events == [.relative(Axis.wheel, -1), .relative(Axis.horizontalWheel, 1)])
  }
}

struct VNCAddressTests {
  @Test func addressesAreRead() {
    #expect(VNCAddress("127.0.0.1:5900") == .loopback("127.0.0.1", port: 5900))
    #expect(VNCAddress("[::1]:5901") == .loopback("::1", port: 5901))
    #expect(VNCAddress("localhost:0") == .loopback("127.0.0.1", port: 0))
    #expect(VNCAddress("./vnc.sock") == .path("./vnc.sock"))
    #expect(VNCAddress("vnc.sock") == nil)
    #expect(VNCAddress("::1:5900") == nil)
    #expect(VNCAddress("127.0.0.1:65536") == nil)
  }

  @Test func outputsAreSideBySide() {
    #expect(VNCAddress.loopback("::1", port: 5900).of(output: 2) == .loopback("::1", port: 5902))
    #expect(VNCAddress.path("/a/b").of(output: 1) == .path("/a/b.1"))
    #expect(VNCAddress.loopback("127.0.0.1", port: 65535).of(output: 1) == nil)
  }
}
