import ArgumentParser
import Glibc

/// Words on the command line that are no subcommands.
package enum Subcommands {
  /// Ends the process with a suggestion if a word stands where only a subcommand can, and is none.
  ///
  /// The default subcommands take options alone, so that any other word is a mistake;
  /// ArgumentParser would print some other command's help, and succeed.
  ///
  /// - Parameters:
  ///   - arguments: the command line, with this program's own name.
  ///   - root: the program's command.
  package static func check(_ arguments: [String], of root: any ParsableCommand.Type) {
    guard let mistake = mistake(in: Array(arguments.dropFirst()), of: root) else { return }
    complain(mistake)
    Glibc.exit(2)
  }

  /// What is wrong with the first words of a command line, in one line; nil where nothing is.
  static func mistake(in arguments: [String], of root: any ParsableCommand.Type) -> String? {
    var command: any ParsableCommand.Type = root
    var path = root.configuration.commandName ?? root._commandName
    var asksForHelp = false
    for word in arguments {
      if word.hasPrefix("-") { return nil }
      if word == "help", !asksForHelp, !command.configuration.subcommands.isEmpty {
        asksForHelp = true
        continue
      }
      let below = command.configuration.subcommands
      // What follows is an argument of the command, which judges it.
      if below.isEmpty, !asksForHelp { return nil }
      guard let next = below.first(where: { $0._commandName == word }) else {
        // `help help` is the parser's own.
        if asksForHelp, word == "help" { return nil }
        let known = below.map { $0._commandName } + (asksForHelp ? [] : ["help"])
        let guess = suggestion(for: word, of: known).map { "; did you mean \"\($0)\"?" } ?? ""
        return "there is no subcommand \"\(word)\"\(guess) (see \(path) --help)"
      }
      command = next
      path += " \(word)"
    }
    return nil
  }

  /// The known word that is nearest, nil if none is near.
  static func suggestion(for word: String, of known: [String]) -> String? {
    let best = known.map { (name: $0, distance: distance(word, $0)) }.min {
      $0.distance < $1.distance
    }
    guard let best, best.distance <= max(1, word.count / 3) else { return nil }
    return best.name
  }

  /// How many letters have to be put in, left out, changed, or swapped with the next one.
  static func distance(_ a: String, _ b: String) -> Int {
    let (a, b) = (Array(a), Array(b))
    var rows = [[Int](0...b.count)]
    for i in a.indices {
      var row = [i + 1]
      for j in b.indices {
        var best = min(rows[i][j] + (a[i] == b[j] ? 0 : 1), rows[i][j + 1] + 1, row[j] + 1)
        if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] {
          best = min(best, rows[i - 1][j - 1] + 1)
        }
        row.append(best)
      }
      rows.append(row)
    }
    return rows[a.count][b.count]
  }
}
