import ArgumentParser

/// The options of a program that `pinhole NAME` starts in its place.
///
/// They stand here, apart from what the program links, so that `pinhole` knows them too: for its
/// help and for the completions that shells make of it.
package protocol HelperOptions: ParsableArguments {
  /// The subcommand, such as `vnc`.
  static var name: String { get }
  /// What it does, in one line.
  static var abstract: String { get }
}

/// A subcommand that is another program, which ``Command/Programs/becomeOne(_:)`` starts before
/// anything of this is parsed.
package struct Elsewhere<Options: HelperOptions>: ParsableCommand {
  package static var configuration: CommandConfiguration {
    CommandConfiguration(commandName: Options.name, abstract: Options.abstract)
  }

  @OptionGroup var options: Options

  package init() {}
}

/// `pinhole input`, which has subcommands of its own.
package struct InputElsewhere: ParsableCommand {
  package static let abstract =
    "A keyboard and a pointer for a guest, as vhost-user devices or through QMP."
  package static let configuration = CommandConfiguration(
    commandName: "input", abstract: abstract,
    subcommands: [Elsewhere<ServeInputOptions>.self, Elsewhere<SendInputOptions>.self],
    defaultSubcommand: Elsewhere<ServeInputOptions>.self)

  package init() {}
}
