import Glibc
import Linux

/// What `pinhole view` writes to standard output, at once.
enum ViewOutput {
  /// Writes a text.
  ///
  /// - Throws: ``ViewError/readerGone`` when nobody can read it any more, others when it cannot be
  ///   written.
  static func write(_ text: String) throws(ViewError) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(1, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else {
        let error = Errno(errno, "write")
        if error.code == EPIPE { throw .readerGone }
        throw .other(
          "cannot write to standard output: \(error.message); give it a file, or a pipe that is read"
        )
      }
      rest = rest.dropFirst(count)
    }
  }
}

/// What went wrong, in words.
enum ViewError: Error, CustomStringConvertible {
  /// Whoever read the events has ended.
  case readerGone
  /// Anything else.
  case other(String)

  init(_ description: String) { self = .other(description) }

  var description: String {
    switch self {
    case .readerGone: "nobody reads standard output any more"
    case .other(let text): text
    }
  }
}
