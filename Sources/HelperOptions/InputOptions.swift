import ArgumentParser
import Command
import Glibc
import Logging
import Sandbox

/// The options of `pinhole input`.
package struct ServeInputOptions: HelperOptions {
  package static let name = "serve"
  package static let abstract =
    "Serve virtio input devices, or drive those of a running QEMU."

  @Option(help: "Serve a keyboard to the front-end that connects to this path; repeatable.")
  package var keyboard: [String] = []

  @Option(help: "Serve a pointer that takes places; the n-th belongs to the guest's output n.")
  package var tablet: [String] = []

  @Option(help: "Serve a pointer that takes motions; repeatable.")
  package var mouse: [String] = []

  @Option(help: "Instead of devices of its own, use this QMP socket of a running QEMU.")
  package var qmp: String?

  @Option(help: "Where programs that control the guest connect.")
  package var controlSocket: String

  @Option(help: "Mode of the control socket, octal: whoever may write to it may control.")
  package var controlMode: FileMode = FileMode(0o600)

  @Option(help: "Group of the control socket, a name or a number.")
  package var controlGroup: GroupName?

  @Option(help: "Controllers that may be connected.")
  package var maxControllers = 16

  @Option(help: "Events a second that one controller may send.")
  package var maxRate = 4000

  @Option(help: "Give up files, privileges and system calls: on, off, or log (log such calls).")
  package var sandbox: Sandbox.Mode = .on

  @Option(help: "Least severe messages to log: trace, debug, info, notice, warning or error.")
  package var logLevel: Logger.Level = .info

  package init() {}
}

/// Permission bits in octal.
package struct FileMode: ExpressibleByArgument {
  package let bits: mode_t
  package init(_ bits: mode_t) { self.bits = bits }
  package init?(argument: String) {
    guard let bits = mode_t(argument, radix: 8), bits <= 0o777 else { return nil }
    self.bits = bits
  }
  package var defaultValueDescription: String { "0" + String(bits, radix: 8) }
}
