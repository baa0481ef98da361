import ArgumentParser
import Command
import HelperOptions

/// The program behind `pinhole input`.
@main
struct Input: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole input",
    abstract: InputElsewhere.abstract,
    version: pinholeFullVersion,
    subcommands: [ServeInput.self, SendInput.self], defaultSubcommand: ServeInput.self)

  static func main() {
    Subcommands.check(CommandLine.arguments, of: Self.self)
    runAsProgram()
  }
}
