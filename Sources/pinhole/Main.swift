import ArgumentParser
import Command
import Glibc
import HelperOptions

/// The command `pinhole`.
@main
struct Pinhole: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole",
    abstract: "A vhost-user GPU for QEMU that shows the guest's own pages, never a stale one.",
    version: pinholeFullVersion,
    subcommands: [
      Serve.self, Share.self, View.self, KMSCommand.self, Status.self, Conformance.self,
      Doctor.self, Elsewhere<VNCOptions>.self, InputElsewhere.self,
      Elsewhere<PipeWireOptions>.self, Elsewhere<GStreamerOptions>.self,
    ],
    defaultSubcommand: Serve.self)

  static func main() {
    Subcommands.check(CommandLine.arguments, of: Self.self)
    do throws(Failure) {
      try Programs.becomeOne(CommandLine.arguments)
    } catch {
      complain(error.message)
      Glibc.exit(1)
    }
    runAsProgram()
  }
}
