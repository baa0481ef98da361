import ArgumentParser
import Buffers
import Command
import Daemon
import Glibc
import GuestMemory
import Linux
import Logging

/// How the device of ``StandIn`` looks at the pages before each frame.
enum Looks: String, CaseIterable, ExpressibleByArgument {
  /// Not at all, which would be unsafe: what a frame costs apart from the look.
  case none
  /// As it does: at the file's times where the kernel keeps those, else at each page.
  case gated
  /// At each page.
  case pages

  /// What the table calls it.
  var text: String {
    switch self {
    case .none: "none"
    case .gated: "at the file's times, as usual from Linux 6.13 on"
    case .pages: "at each page"
    }
  }
}

/// The daemon as it is, for consumers of the guest's own pages, also where there is no
/// /dev/udmabuf: memory of the right size is in the place of each dma-buf then. Nobody reads it.
enum StandIn {
  /// Serves until the process is killed.
  static func serve(on path: String, _ looks: Looks) throws {
    var options = DaemonOptions()
    options.socketPath = path
    options.framesSocket = Serving.frames(beside: path)
    options.qemuDisplay = nil
    // On a busy machine the consumer may be late, and would get copies.
    options.holdDeadline = 5_000_000_000
    if looks == .none { options.onDiscard = .ignore }
    let daemon = try Daemon(
      options, LogLines.bootstrap(level: .info, perSecond: 10), udmabuf: try device())
    daemon.store.usesGate = looks != .pages
    try daemon.run()
  }

  /// Nil where there is the real one.
  private static func device() throws(Errno) -> Result<UdmabufDevice, CopyReason>? {
    if Machine.hasUdmabuf { return nil }
    let device = UdmabufDevice(adopting: try OwnedFD.open("/dev/null", O_RDWR), limits: .usual)
    device.substitute = { ranges throws(Errno) in
      let bytes = ranges.reduce(0) { $0 + $1.count }
      return try MemFD.create("bench-pages", size: Int(clamping: bytes), seals: [.shrink])
    }
    return .success(device)
  }
}
