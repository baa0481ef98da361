import CLinux
import Glibc
import Linux

/// The programs beside `pinhole`, each a process with its own libraries and sandbox.
///
/// `pinhole vnc …` starts `pinhole-vnc …` in its place.
package enum Programs {
  /// What a person may start by `pinhole NAME`.
  package static let names = ["vnc", "input", "pipewire", "gst"]

  /// The path of `pinhole-NAME`: beside this program, as in a build tree, or in
  /// `../libexec/pinhole`, as installed.
  ///
  /// - Throws: ``Failure`` that says where it was looked for.
  package static func path(of name: String) throws(Failure) -> String {
    let own = ownDirectory
    let places = ["\(own)/pinhole-\(name)", "\(own)/../libexec/pinhole/pinhole-\(name)"]
    for place in places where access(place, X_OK) == 0 { return place }
    throw Failure(
      "\(name) is not installed: there is no program \(places.joined(separator: " or "));"
        + " \(source(of: name))")
  }

  /// Where a person gets it.
  private static func source(of name: String) -> String {
    let package = name == "renderer" ? "pinhole-renderer" : "pinhole-bridges"
    return "install the package \(package), or run `make build`"
  }

  /// Becomes `pinhole-NAME` if the first argument is one of ``names``; returns if it is not.
  ///
  /// - Parameter arguments: the command line, with this program's own name.
  package static func becomeOne(_ arguments: [String]) throws(Failure) {
    var rest = arguments.dropFirst()
    // As "help NAME" of any other subcommand.
    if rest.first == "help", rest.count > 1 { rest = rest.dropFirst() + ["--help"] }
    guard let name = rest.first else { return }
    // A window is another program: `pinhole view` itself links no window system.
    if name == "view", let flag = rest.firstIndex(of: "--wayland") {
      rest.remove(at: flag)
      return try become("wayland", called: "pinhole view --wayland", rest.dropFirst())
    }
    guard names.contains(name) else { return }
    try become(name, called: "pinhole \(name)", rest.dropFirst())
  }

  private static func become(
    _ name: String, called: String, _ arguments: ArraySlice<String>
  ) throws(Failure) {
    let path = try path(of: name)
    var argv = ([called] + arguments).map { strdup($0) }
    argv.append(nil)
    execv(path, argv)
    throw Failure("cannot start \(path): \(Errno(errno, "execv"))")
  }

  /// The directory that the running program's file is in.
  private static var ownDirectory: String {
    let path = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4096) { text in
      guard let base = text.baseAddress, ph_self_path(base, 4096) == 0 else { return "" }
      return String(cString: base)
    }
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return String(path[..<slash])
  }
}
