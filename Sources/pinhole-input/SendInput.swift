import ArgumentParser
import Command
import Glibc
import PinholeInput

/// `pinhole input send`: a controller for scripts.
struct SendInput: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "send",
    abstract: "Send keys and motions from a script.",
    discussion: """
      Each argument is one moment; numbers are those of linux/input-event-codes.h:
        key=30            KEY_A goes down and up
        down=42  up=42    KEY_LEFTSHIFT is held and let go
        at=10,20/640x480  the pointer goes to pixel 10,20 of an output of 640x480;
                          /640x480/1 for output 1
        move=5,-3         the mouse moves
        button=272        BTN_LEFT goes down and up where the pointer is
        wheel=-1          the wheel turns towards the user
        wait=100          nothing for 100 milliseconds
      What is held goes up at the end.
      """)

  @Option(help: "The control socket of pinhole input.")
  var controlSocket: String

  @Argument(help: "What to do, in this order.")
  var moments: [Moment]

  func run() throws {
    do throws(InputError) {
      let input = try InputClient(path: controlSocket, name: "pinhole input send")
      guard case .connected = try input.next(timeout: 5000) else { throw .closed }
      for moment in moments {
        for (events, place) in moment.steps { try input.send(events, at: place) }
        try drain(input)
        if moment.wait > 0 { usleep(moment.wait * 1000) }
      }
    } catch { throw Failure("\(error)") }
  }

  private func drain(_ input: InputClient) throws(InputError) {
    while input.hasWaiting {
      var poll = pollfd(fd: input.fd, events: Int16(POLLOUT), revents: 0)
      _ = Glibc.poll(&poll, 1, 1000)
      try input.flush()
    }
    while try input.next(timeout: 0) != nil {}
  }
}

/// One argument of `pinhole input send`.
struct Moment: ExpressibleByArgument {
  var steps: [([InputEvent], InputPlace?)] = []
  var wait: UInt32 = 0

  init?(argument: String) {
    let parts = argument.split(separator: "=", maxSplits: 1)
    guard parts.count == 2 else { return nil }
    let value = String(parts[1])
    switch parts[0] {
    case "key", "button":
      guard let code = UInt16(value) else { return nil }
      steps = [([.key(code, isDown: true)], nil), ([.key(code, isDown: false)], nil)]
    case "down", "up":
      guard let code = UInt16(value) else { return nil }
      steps = [([.key(code, isDown: parts[0] == "down")], nil)]
    case "wheel":
      guard let turn = Int32(value) else { return nil }
      steps = [([.relative(Axis.wheel, turn)], nil)]
    case "move":
      guard let (x, y) = Self.pair(value, ",") else { return nil }
      steps = [([.relative(Axis.x, x), .relative(Axis.y, y)], nil)]
    case "at":
      guard let place = Self.place(value) else { return nil }
      steps = [([], place)]
    case "wait":
      guard let milliseconds = UInt32(value), milliseconds <= 60_000 else { return nil }
      wait = milliseconds
    default: return nil
    }
  }

  private static func pair(_ text: String, _ separator: Character) -> (Int32, Int32)? {
    let parts = text.split(separator: separator, omittingEmptySubsequences: false)
    guard parts.count == 2, let first = Int32(parts[0]), let second = Int32(parts[1]) else {
      return nil
    }
    return (first, second)
  }

  private static func place(_ text: String) -> InputPlace? {
    let parts = text.split(separator: "/")
    guard parts.count == 2 || parts.count == 3, let (x, y) = pair(String(parts[0]), ","),
      let (width, height) = pair(String(parts[1]), "x"), width > 0, height > 0,
      let output = parts.count == 3 ? UInt32(parts[2]) : 0
    else { return nil }
    return InputPlace(
      output: output, x: x, y: y, width: UInt32(width), height: UInt32(height))
  }
}
