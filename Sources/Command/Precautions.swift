import Linux
import Logging
import Sandbox

/// What every process that serves others does, so that none of them can have it wait.
package enum Precautions {
  /// After this a loop that does not turn ends its process, where no option says otherwise.
  package static let watchdog: UInt32 = 30

  /// To be taken before anything is listened on, and before the sandbox, which denies it: a log that
  /// nobody reads loses lines, and there is room for whatever descriptors a message brings.
  package static func take() {
    LogOutput.prepare()
    // Where that fails there are as many as before.
    _ = try? Descriptors.reserveForMessages()
    Foreign.prepare()
  }

  /// Starts the threads that close what came from outside, and the one that looks after the loop.
  ///
  /// To be called in the loop's thread, between the two steps of the sandbox: later the threads could
  /// not start, earlier they would keep what this thread gives up.
  ///
  /// - Parameters:
  ///   - loop: the calling thread's.
  ///   - seconds: as ``Linux/Watchdog/endingTheProcess(over:after:_:)``.
  /// - Returns: what has to live as long as the loop runs.
  /// - Throws: ``Command/Failure``.
  package static func startThreads(
    over loop: EventLoop, watchdog seconds: UInt32 = watchdog, _ log: Logger
  ) throws(Failure) -> Watchdog {
    try explain("cannot start threads") { () throws(Errno) in
      try Closers.start()
      return try Watchdog.endingTheProcess(over: loop, after: seconds, log)
    }
  }
}

extension Sandbox {
  /// As ``enter(_:policy:removing:keepsRoot:start:)``, with the threads of ``Precautions``.
  ///
  /// - Parameter loop: what the calling thread will run.
  /// - Returns: what was given up, for the log, and what has to live as long as the loop runs.
  /// - Throws: ``Command/Failure``, which names the step and the way without.
  package static func enter(
    _ mode: Mode, policy: CallPolicy, removing sockets: [String] = [], keepsRoot: Bool = false,
    over loop: EventLoop, _ log: Logger
  ) throws(Command.Failure) -> (confinement: String, watchdog: Watchdog?) {
    var watchdog: Watchdog?
    let confinement = try enter(
      mode, policy: policy, removing: sockets, keepsRoot: keepsRoot
    ) { () throws(Command.Failure) in
      watchdog = try Precautions.startThreads(over: loop, log)
    }
    return (confinement, watchdog)
  }
}
