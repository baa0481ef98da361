import ArgumentParser
import Command
import FakeGuest
import Glibc
import Linux
import Pictures

/// `pinhole-guest`: a guest without a virtual machine, and what tests and demos need beside one. It
/// is not installed.
@main
struct Guest: Program {
  static let configuration = CommandConfiguration(
    commandName: "pinhole-guest",
    abstract: "Play a guest and its QEMU against a running pinhole.",
    version: pinholeFullVersion,
    subcommands: [
      GuestPlay.self, GuestVtest.self, GuestStorm.self, GuestPunch.self, GuestStormPunch.self,
      GuestUdmabuf.self,
    ],
    defaultSubcommand: GuestPlay.self)

  static func main() { runAsProgram() }
}

extension TestPicture: ExpressibleByArgument {}

extension PixelFormat: ExpressibleByArgument {
  package init?(argument: String) {
    guard let format = Self.allCases.first(where: { "\($0)" == argument }) else { return nil }
    self = format
  }
}

/// `--discard`.
struct DiscardChoice: ExpressibleByArgument {
  var value = GuestSession.Discard.none
  var defaultValueDescription: String { "none" }

  init() {}

  init?(argument: String) {
    switch argument {
    case "none": value = .none
    case "random": value = .pages(1)
    case "all": value = .all
    default:
      guard let count = Int(argument), count > 0 else { return nil }
      value = .pages(count)
    }
  }
}

/// `pinhole-guest play`, the default: a whole session.
struct GuestPlay: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "play", abstract: "Draw pictures, and discard pages under them.",
    discussion: """
      It connects to `pinhole serve --socket-path PATH` as QEMU does, with memory, rings and a \
      display of its own, and prints what happened. Exit status 1 if the display showed \
      anything but what was drawn.
      """)

  @Option(help: "The socket that pinhole listens on.")
  var socketPath: String?

  @Option(
    help: ArgumentHelp(
      "Instead, start a QEMU with this device of its own, such as virtio-gpu-pci,blob=true.",
      valueName: "device"))
  var qemuDevice: String?

  @Option(help: "Size of the pictures in pixels.")
  var size = PictureSize()

  @Option(help: "How many frames to draw.")
  var frames = 60

  @Option(help: "What to draw: smpte, checker, gradient or pages.")
  var picture: TestPicture = .smpte

  @Option(help: "How pixels lie in memory, for example r8g8b8x8.")
  var format = PixelFormat.b8g8r8x8

  @Option(help: "Pages to discard before each frame: none, random (one page), a number, or all.")
  var discard = DiscardChoice()

  @Flag(help: "Keep pictures in single pages all over the memory.")
  var scattered = false

  @Flag(help: "Draw into two buffers in turn.")
  var flip = false

  @Flag(help: "Use blob resources and fenced flushes.")
  var blob = false

  @Option(help: "Seed of everything random.")
  var seed: UInt64 = 1

  @Option(help: "Most frames per second; 0 for as many as go.")
  var rate = 0

  @Flag(help: "Do not look at what QEMU's display shows.")
  var unseen = false

  @Option(help: "Seconds to keep the last picture on the screen.")
  var linger = 0

  @Option(help: "Write what the display shows after each frame to this directory.")
  var png: String?

  func validate() throws {
    guard (socketPath == nil) != (qemuDevice == nil) else {
      throw ValidationError("give --socket-path PATH, or --qemu-device instead")
    }
    guard png == nil || qemuDevice == nil else {
      throw ValidationError("--png needs a pinhole: there is no display with --qemu-device")
    }
    guard frames > 0 else { throw ValidationError("--frames must be at least 1") }
    guard rate >= 0, linger >= 0 else {
      throw ValidationError("--rate and --linger cannot be negative")
    }
  }

  func run() throws {
    do throws(GuestError) { try play() } catch { throw Failure("guest: \(error)") }
  }

  private var options: GuestSession.Options {
    var options = GuestSession.Options()
    options.width = size.width
    options.height = size.height
    options.picture = picture
    options.format = format
    options.scattered = scattered
    options.flip = flip
    options.blob = blob
    options.discard = discard.value
    options.seed = seed
    return options
  }

  private func play() throws(GuestError) {
    let options = self.options
    let (transport, display) = try connect(options)
    let session = try GuestSession(transport, options)
    if let png { mkdir(png, 0o755) }
    for number in 0..<frames {
      let start = Clock.now
      let drawn = try session.play(frame: number)
      let shown = unseen ? nil : display.flatMap { session.compare(with: drawn, on: $0) }
      if let png, let shown { try write(shown, "\(png)/frame-\(number).png") }
      pace(since: start)
    }
    if linger > 0 { sleep(UInt32(linger)) }
    report(session, display?.now)
    if session.counters.wrongPictures > 0 {
      throw .violation("the display showed \(session.counters.wrongPictures) wrong pictures")
    }
  }

  /// The way to the device, and what QEMU's display shows of it if that can be seen.
  private func connect(
    _ options: GuestSession.Options
  ) throws(GuestError) -> (any DeviceTransport, FakeDisplay?) {
    let bytes = GuestSession.memory(for: options)
    if let qemuDevice {
      var qemu = QEMUProcess.Options()
      qemu.devices = [qemuDevice]
      qemu.megabytes = max(qemu.megabytes, Int(bytes >> 20) + 1)
      return (try QTestPCI(QEMUProcess(qemu)), nil)
    }
    let ram = try GuestRAM(size: bytes, regions: GuestRAM.pcRegions(size: bytes))
    let frontEnd = try VhostUserFrontEnd(path: socketPath ?? "", ram: ram)
    guard let display = frontEnd.display else { throw .closed("the display") }
    return (frontEnd, display)
  }

  private func pace(since start: UInt64) {
    guard rate > 0 else { return }
    let period = 1_000_000_000 / UInt64(rate)
    let taken = Clock.now - start
    if taken < period { usleep(UInt32((period - taken) / 1000)) }
  }

  private func write(_ shown: Raster, _ path: String) throws(GuestError) {
    let rgba = shown.pixels.flatMap { pixel in
      [UInt8(pixel >> 16 & 255), UInt8(pixel >> 8 & 255), UInt8(pixel & 255), 255]
    }
    guard let picture = Picture(width: shown.width, height: shown.height, rgba: rgba) else {
      return
    }
    do throws(PictureError) { try picture.writePNG(path) } catch { throw .unsupported("\(error)") }
  }

  private func report(_ session: GuestSession, _ display: FakeDisplay.State?) {
    let counters = session.counters
    let mean = counters.flushTime / UInt64(max(counters.frames, 1)) / 1000
    let updates = display?.surfaces.values.reduce(0) { $0 + $1.updates } ?? 0
    print(
      """
      guest: frames \(counters.frames) discarded-pages \(counters.discardedPages) \
      wrong-pictures \(counters.wrongPictures) updates \(updates) seed \(seed) \
      flush-mean-us \(mean) flush-max-us \(counters.longestFlush / 1000)
      """)
    for violation in display?.violations ?? [] { print("guest: the display objects: \(violation)") }
  }
}

/// `pinhole-guest punch`: the process behind ``Puncher``.
struct GuestPunch: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "punch", abstract: "Discard pages of the memory on descriptor 3.",
    shouldDisplay: false)

  func run() throws {
    do throws(GuestError) {
      try PuncherProcess().run()
    } catch { throw Failure("pinhole-guest punch: \(error)") }
  }
}
