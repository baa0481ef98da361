import ArgumentParser
import Command
import FakeGuest
import Glibc
import Linux

/// `pinhole-guest storm`: every page under fire.
struct GuestStorm: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "storm", abstract: "Discard pages at random under a guest that draws.",
    discussion: """
      Starts a pinhole of its own, unless the sockets of one are given. A guest stamps every \
      page of its picture with a rising number and flushes, another process discards pages at \
      random all the time, and consumers compare every byte of every frame with the guest's \
      memory. Exit status 1 if a frame showed anything else. With --detector none it must fail: \
      nothing looks after discarded pages then.
      """)

  @Option(help: "Size of the picture in pixels.")
  var size = PictureSize(width: 1920, height: 1080)

  @Option(help: "How pinhole finds discards: auto, scan, pagemap, faults or none.")
  var detector = "auto"

  @Option(help: "Pages to discard before the end.")
  var punches: UInt64 = 20_000

  @Option(help: "Seconds until the end, 0 for as long as it takes.")
  var seconds: UInt64 = 0

  @Option(help: "Seed of everything random; one is chosen and printed if it is not given.")
  var seed: UInt64?

  @Option(help: "Connections to the frames socket.")
  var consumers = 2

  @Option(help: "Runs of pages discarded for each frame, on average.")
  var burstsPerFrame: UInt64 = 4

  @Flag(help: "Guest memory in huge pages of 2 MiB.")
  var hugePages = false

  @Option(help: "Pages of 4 KiB by which the picture begins inside its first huge page.")
  var inset = 0

  @Option(help: "The socket of a pinhole that runs already.")
  var socketPath: String?

  @Option(help: "Its frames socket.")
  var framesSocket: String?

  func validate() throws {
    guard (0..<512).contains(inset) else { throw ValidationError("--inset is 0 to 511") }
    guard (1...16).contains(consumers) else { throw ValidationError("--consumers is 1 to 16") }
    guard (socketPath == nil) == (framesSocket == nil) else {
      throw ValidationError("--socket-path and --frames-socket belong together")
    }
  }

  func run() throws {
    do throws(GuestError) { try storm() } catch { throw Failure("guest storm: \(error)") }
  }

  private func storm() throws(GuestError) {
    let seed = self.seed ?? Clock.now
    complain("storm: detector \(detector) seed \(seed)")
    var options = Storm.Options()
    (options.width, options.height) = (size.width, size.height)
    options.seed = seed
    options.punches = punches
    options.seconds = seconds
    options.consumers = consumers
    options.burstsPerFrame = burstsPerFrame
    options.hugePages = hugePages
    options.inset = inset
    options.enoughStale = 10
    var pinhole: PinholeProcess?
    if socketPath == nil {
      pinhole = try PinholeProcess(
        ["--detector", detector, "--hold-deadline", "5000", "--log-level", "notice"])
    }
    let result: Storm.Result
    do throws(GuestError) {
      let storm = try Storm(
        socket: socketPath ?? pinhole?.socket ?? "",
        framesSocket: framesSocket ?? pinhole?.framesSocket ?? "", options)
      let terminal = Terminal.progress
      storm.progress = { [punches] now in
        terminal?.show(
          progress: "storm: \(now.discarded) of \(punches) pages discarded, \(now.checked) frames "
            + "compared, \(now.stale) stale")
      }
      defer { terminal?.endProgress() }
      result = try storm.run()
    } catch {
      if let pinhole { complain("storm: pinhole's log:\n\(pinhole.log)") }
      throw error
    }
    print("storm: detector \(detector) seed \(seed) \(result.description)")
    if let pinhole { try end(pinhole) }
    for seen in result.consumers {
      if let first = seen.firstStale { print("storm: stale: \(first)") }
    }
    if result.stale > 0 { throw .violation("\(result.stale) stale frames") }
  }

  /// Prints the counters of its last words.
  private func end(_ pinhole: PinholeProcess) throws(GuestError) {
    pinhole.child.signal(SIGUSR1)
    usleep(100_000)
    guard let status = pinhole.terminate(), status == 0 else {
      throw .violation("pinhole did not end well: \(pinhole.log)")
    }
    for line in pinhole.log.split(separator: "\n") where !line.contains("serves") {
      print("storm: \(line)")
    }
  }
}

/// `pinhole-guest storm-punch`: the process behind ``Storm``.
struct GuestStormPunch: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "storm-punch", abstract: "Discard pages of the memory on descriptor 3.",
    shouldDisplay: false)

  @Option var seed: UInt64
  @Option var start: UInt64
  @Option var unit: UInt64
  @Option var burstsPerFrame: UInt64

  func run() throws {
    var options = StormPuncher.Options()
    options.seed = seed
    options.start = start
    options.unit = unit
    options.burstsPerFrame = burstsPerFrame
    do throws(GuestError) {
      try StormPuncher(options).run()
    } catch { throw Failure("pinhole-guest storm-punch: \(error)") }
  }
}
