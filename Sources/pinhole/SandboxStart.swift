import ArgumentParser
import GuestMemory
import Sandbox

extension Sandbox.Mode: ExpressibleByArgument {}

/// Confines the process once its devices are open and its sockets listen, and starts the
/// witness's thread in between, so that it is confined like the others.
///
/// - Parameters:
///   - sockets: paths that are removed at the end.
///   - keeper: whose thread is to be started, if there is one.
/// - Returns: what was given up, for the log.
func enterSandbox(
  _ mode: Sandbox.Mode, sockets: [String], keeper: WitnessKeeper?
) throws(Failure) -> String {
  // Found out with files and calls of its own, at first use.
  _ = WitnessKeeper.timesAreExact
  var files: Sandbox.Files?
  do throws(Sandbox.Failure) {
    if mode != .off {
      files = try Sandbox.confine(removingFilesIn: sockets.map { Sandbox.directory(of: $0) })
    }
  } catch { throw Failure("--sandbox \(mode): \(error)") }
  do throws(WitnessError) { try keeper?.startListener() } catch { throw Failure("\(error)") }
  do throws(Sandbox.Failure) {
    try Sandbox.restrictCalls(to: .serving(), mode: mode)
  } catch { throw Failure("--sandbox \(mode): \(error)") }
  guard let files else { return "no sandbox" }
  return "sandbox: \(files), no capabilities, "
    + (mode == .log ? "system calls logged" : "system calls filtered")
}
