import Glibc
import Logging

/// Writes each message as one line to standard error: `pinhole: warning: …`.
///
/// There is no time stamp: what starts daemons (systemd, libvirt) adds one.
struct LogLines: LogHandler {
  var metadata: Logger.Metadata = [:]
  var logLevel: Logger.Level = .info

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let prefix = event.level == .info ? "" : "\(event.level): "
    complain(prefix + "\(event.message)")
  }
}
