import ArgumentParser
import Command

/// The program behind `pinhole input`.
@main
struct Input: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole input",
    abstract: "A keyboard and a pointer for a guest.",
    version: pinholeVersion,
    subcommands: [ServeInput.self, SendInput.self], defaultSubcommand: ServeInput.self)

  static func main() { runAsProgram() }
}
