import Command
import GuestMemory
import Linux
import Sandbox

/// Confines the process once its devices are open and its sockets listen, and starts the
/// witness's thread in between, so that it is confined like the others.
///
/// - Parameters:
///   - sockets: paths that are removed at the end.
///   - keeper: whose thread is to be started, if there is one.
///   - startThreads: starts the others.
/// - Returns: what was given up, for the log.
func enterSandbox(
  _ mode: Sandbox.Mode, sockets: [String], keeper: WitnessKeeper?,
  startThreads: () throws(Failure) -> Void
) throws(Failure) -> String {
  // Found out with files and calls of its own, at first use.
  _ = WitnessKeeper.timesAreExact
  return try Sandbox.enter(mode, policy: .serving(), removing: sockets) { () throws(Failure) in
    try startThreads()
    do throws(WitnessError) { try keeper?.startListener() } catch { throw Failure("\(error)") }
  }
}
