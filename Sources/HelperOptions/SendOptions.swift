import ArgumentParser
import PinholeInput

/// The options of `pinhole input send`.
package struct SendInputOptions: HelperOptions {
  package static let name = "send"
  package static let abstract = "Send keys and motions from a script."

  @Option(help: "The control socket of pinhole input.")
  package var controlSocket: String

  @Argument(help: "What to do, in this order.")
  package var moments: [Moment]

  package init() {}
}

/// One argument of `pinhole input send`.
package struct Moment: ExpressibleByArgument {
  package var steps: [([InputEvent], InputPlace?)] = []
  package var wait: UInt32 = 0

  package init?(argument: String) {
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
