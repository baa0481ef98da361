import ArgumentParser

/// `pinhole doctor`: what a guest would get on this machine.
struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "doctor",
    abstract: "Tell what a guest's pictures would get on this machine, and what is missing.",
    discussion: """
      Run it as the user that Pinhole runs as. Exit status 0 if pictures can be shown without \
      copying, 1 if they would be copied, 2 for a mistake on the command line.
      """)

  func run() throws {
    let report = DoctorReport(.here())
    print(report.text, terminator: "")
    if !report.isDirect { throw ExitCode(1) }
  }
}
