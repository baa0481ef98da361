import ArgumentParser
import Command
import Glibc
import Monitoring

/// `pinhole status`: what a running `pinhole serve` does.
struct Status: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status",
    abstract: "Tell what a running pinhole does and has done.",
    discussion: """
      Ask the socket that `pinhole serve --control PATH` listens on. In a terminal a table is \
      shown that follows the numbers until Ctrl-C; otherwise it is printed once. NO_COLOR, not \
      empty, keeps it free of colours.

      Exit status 0, 1 if nothing answers there in 5 seconds, 2 for a mistake on the command line.
      """)

  @Option(help: "The socket of --control.")
  var control: String

  @Flag(help: "Print one line of JSON.")
  var json = false

  @Flag(help: "Print the OpenMetrics text format, for a Prometheus exporter.")
  var prometheus = false

  @Option(
    name: .customLong("label"),
    help: ArgumentHelp(
      "With --prometheus: add this to every sample, such as vm=work; repeatable.",
      valueName: "name=value"),
    transform: { try MetricLabel($0) })
  var labels: [MetricLabel] = []

  @Flag(help: "Print once, in a terminal too.")
  var once = false

  func validate() throws {
    if json, prometheus { throw ValidationError("--json and --prometheus exclude each other") }
    if !labels.isEmpty, !prometheus {
      throw ValidationError("--label goes with --prometheus alone; give that too, or leave it out")
    }
    if let name = MetricLabel.repeated(in: labels) {
      throw ValidationError("--label \(name) is given twice; give each name once")
    }
  }

  func run() throws {
    let answer = try StatusAnswer(from: control)
    if json { return print(answer.json.text) }
    if prometheus { return print(answer.state.openMetrics(labels: labels), terminator: "") }
    let terminal = Terminal.standardOutput
    guard let terminal, !once else {
      var table = StateTable(answer.state)
      table.hasColours = terminal?.hasColours ?? false
      return print(table.lines.joined(separator: "\n"))
    }
    try follow(answer, on: terminal)
  }

  /// Draws the table over the last one each second.
  private func follow(_ first: StatusAnswer, on terminal: Terminal) throws {
    var answer = first
    var before: StatusAnswer?
    var drawn = 0
    while true {
      let size = terminal.size
      var table = StateTable(answer.state)
      if let before {
        table.before = (before.state, Double(answer.time &- before.time) / 1e9)
      }
      table.width = size.columns
      table.hasColours = terminal.hasColours
      // A line that scrolls out of the window could not be drawn over.
      let lines = table.lines.prefix(max(1, size.rows - 1))
      var text = drawn > 0 ? "\u{1b}[\(drawn)A" : ""
      for line in lines { text += line + "\u{1b}[K\n" }
      print(text + "\u{1b}[J", terminator: "")
      fflush(nil)
      drawn = lines.count
      before = answer
      sleep(1)
      answer = try StatusAnswer(from: control)
    }
  }
}
