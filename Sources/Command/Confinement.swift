import ArgumentParser
import Sandbox

extension Sandbox.Mode: ExpressibleByArgument {}

extension Sandbox {
  /// Confines a process that needs no more files and whose threads, if it has any, have started.
  ///
  /// - Parameters:
  ///   - mode: `--sandbox`.
  ///   - policy: the calls that the program makes from now on.
  ///   - sockets: paths that are removed at the end.
  ///   - keepsRoot: sockets are connected by path later; see ``confine``.
  ///   - start: starts what is to be confined like the others, between files and calls.
  /// - Returns: what was given up, for the log.
  /// - Throws: ``Command/Failure``, which names the step and the way without.
  package static func enter(
    _ mode: Mode, policy: CallPolicy, removing sockets: [String] = [], keepsRoot: Bool = false,
    start: () throws(Command.Failure) -> Void = {}
  ) throws(Command.Failure) -> String {
    var files: Files?
    do throws(Sandbox.Failure) {
      if mode != .off {
        files = try confine(
          removingFilesIn: sockets.map(directory), keepsRoot: keepsRoot)
      }
    } catch { throw Command.Failure("--sandbox \(mode): \(error)") }
    try start()
    do throws(Sandbox.Failure) {
      try restrictCalls(to: policy, mode: mode)
    } catch { throw Command.Failure("--sandbox \(mode): \(error)") }
    guard let files else { return "no sandbox" }
    return "sandbox: \(files), no capabilities, "
      + (mode == .log ? "system calls logged" : "system calls filtered")
  }
}
