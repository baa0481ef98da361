import ArgumentParser
import Command
import Doctor
import Monitoring

/// `pinhole doctor`: what a guest would get on this machine.
struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Tell what a guest's pictures would get on this machine, and what is missing.",
    discussion: """
      Run it as the user that Pinhole runs as. Each line that is not "ok" says what to type: a \
      command for root's shell, or options for QEMU's command line, which begin with a dash. With \
      --pid it looks at a QEMU that runs, too: its memory, devices, socket and confinement; with \
      --render-node at a GPU (make gpu-check is the long form).

      Exit status 0 if pictures can be shown without copying, 1 if they would be copied or there \
      is no such process, 2 for a mistake on the command line.
      """)

  @Option(help: ArgumentHelp("Look at this QEMU too.", valueName: "process"))
  var pid: Int32?

  @Option(
    help: ArgumentHelp(
      "Look at this GPU too, or at the first one: what it makes of guests' pictures.",
      valueName: "node|auto"))
  var renderNode: String?

  @Flag(help: "Print one line of JSON.")
  var json = false

  func validate() throws {
    if let pid, pid <= 0 { throw ValidationError("--pid \(pid) is no process") }
  }

  func run() throws {
    let qemu = try pid.map { try QEMUFacts(pid: $0) }
    let node = renderNode.map { RenderNodeFacts($0) }
    let report = DoctorReport(.here(), qemu: qemu, node: node)
    if json {
      print(report.json.text)
    } else {
      let colours = Terminal.standardOutput?.hasColours ?? false
      print(report.text(colours: colours), terminator: "")
    }
    if !report.isDirect { throw ExitCode(1) }
  }
}
