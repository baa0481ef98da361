import ArgumentParser
import Command
import Glibc
import KMS
import KMSView
import Linux
import PinholeFrames

/// `pinhole kms`: shows an output on a display of the host.
struct KMSCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kms",
    abstract: "Show an output on a display, without a window system.",
    discussion: """
      The display scans the guest's own pages where its driver imports them and the picture \
      is at least as large as the mode; otherwise they are copied into its own memory. Ends with \
      SIGTERM, SIGINT, a switch to another VT, or the producer, and gives the display back; ends \
      too when another program takes the display. Exit status 0 then, 1 when the display or the \
      connection fails.
      """)

  @Option(name: .customLong("frames-socket"), help: "The producer's socket.")
  var socket: String

  @Option(help: "The display's device.")
  var device: String = "/dev/dri/card0"

  @Option(help: "Which output of the guest to show, from 0.")
  var output: UInt32 = 0

  @Option(help: "For example HDMI-A-1; the first with a display if not given.")
  var connector: String?

  @Option(help: "For example 1920x1080; the guest's size, or the preferred mode, if not given.")
  var mode: PictureSize?

  func run() throws {
    let signals: OwnedFD
    do throws(Errno) { signals = try Signals.descriptor(for: [SIGTERM, SIGINT]) } catch {
      throw Failure("kms: \(error)")
    }
    do {
      let consumer = try FrameConsumer(
        path: socket,
        options: .init(name: "pinhole kms", takesFences: true, closesRemovedBuffers: false))
      var options = KMSShow.Options(device: device, output: output)
      options.connector = connector
      options.size = mode.map { (UInt32($0.width), UInt32($0.height)) }
      // For drivers whose GBM does not do, and for tests.
      options.usesGBM = getenv("PINHOLE_KMS_DUMB") == nil
      let show = KMSShow(options, consumer)
      try show.run(until: signals.raw)
    } catch let error as FramesError {
      throw Failure("kms: \(error)")
    } catch let error as KMSError {
      let others = "; --device, --connector and --mode choose another display"
      throw Failure("kms: \(error)" + (error.isLostMaster ? "" : others))
    }
  }
}
