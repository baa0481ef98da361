import ArgumentParser
import Glibc
import Linux
import Logging

/// Writes each message as one line to standard error: `pinhole: warning: …`.
///
/// There is no time stamp: what starts daemons (systemd, libvirt) adds one.
package struct LogLines: LogHandler {
  package var metadata: Logger.Metadata = [:]
  package var logLevel: Logger.Level = .info
  /// Shared by all loggers of the process.
  let limit: Locked<LineLimit>

  /// Sends all logs of this process here, once.
  ///
  /// - Returns: what bounds the lines, for ``makeRoom(_:)``.
  @discardableResult
  package static func bootstrap(level: Logger.Level, perSecond: Int) -> Locked<LineLimit> {
    let limit = Locked(LineLimit(perSecond: perSecond))
    LoggingSystem.bootstrap { _ in
      var handler = LogLines(limit: limit)
      handler.logLevel = level
      return handler
    }
    return limit
  }

  package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  package func log(event: LogEvent) {
    let (isAllowed, suppressed) = limit.withLock { $0.admit(at: Clock.now) }
    if suppressed > 0 { complain("\(suppressed) more lines suppressed") }
    guard isAllowed else { return }
    let prefix = event.level == .info ? "" : "\(event.level): "
    complain(prefix + "\(event.message)")
  }

  /// Tells of what was suppressed and makes room for what the operator asked for.
  package static func makeRoom(_ limit: Locked<LineLimit>) {
    let suppressed = limit.withLock { $0.start(at: Clock.now) }
    if suppressed > 0 { complain("\(suppressed) more lines suppressed") }
  }
}

/// How many lines a second may be written: whoever provokes messages cannot fill a disk.
package struct LineLimit {
  /// Lines in each second; 0 for any number.
  package let perSecond: Int
  private var second: UInt64 = 0
  private var written = 0
  private var suppressed = 0

  package init(perSecond: Int) { self.perSecond = perSecond }

  /// Asks for one line.
  ///
  /// - Parameter now: nanoseconds of a clock that never goes back.
  /// - Returns: whether to write it, and how many were suppressed before, told once.
  package mutating func admit(at now: UInt64) -> (isAllowed: Bool, suppressed: Int) {
    guard perSecond > 0 else { return (true, 0) }
    var before = 0
    if now / 1_000_000_000 != second {
      second = now / 1_000_000_000
      written = 0
      before = suppressed
      suppressed = 0
    }
    guard written < perSecond else {
      suppressed += 1
      return (false, before)
    }
    written += 1
    return (true, before)
  }

  /// Begins a new second early: what the operator asked for is not suppressed.
  ///
  /// - Returns: how many lines were suppressed and not told of.
  package mutating func start(at now: UInt64) -> Int {
    defer { suppressed = 0 }
    second = now / 1_000_000_000
    written = 0
    return suppressed
  }
}

extension Logger.Level: @retroactive ExpressibleByArgument {}
