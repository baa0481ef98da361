import ArgumentParser
import Command
import Glibc

/// A word on the command line that is no subcommand.
enum Subcommands {
  /// Ends the process with a suggestion if the first word is none of those known.
  ///
  /// The default subcommand takes options alone, so that any other word is a mistake; ArgumentParser
  /// would print the help of the default one.
  ///
  /// - Parameter arguments: the command line, with this program's own name.
  static func check(_ arguments: [String], known: [String]) {
    var words = arguments.dropFirst()
    if words.first == "help" { words = words.dropFirst() }
    guard let word = words.first, !word.hasPrefix("-"), word != "help", !known.contains(word) else {
      return
    }
    let guess = suggestion(for: word, of: known).map { "; did you mean \"\($0)\"?" } ?? ""
    complain("there is no subcommand \"\(word)\"\(guess) (see pinhole --help)")
    Glibc.exit(2)
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
