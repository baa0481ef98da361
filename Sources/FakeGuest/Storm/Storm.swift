import CLinux
import Glibc
import Linux
import Pixels

/// A guest that stamps every page of its picture with a rising number and flushes, as fast as it
/// can, while another process discards the pages and consumers check every byte of every frame.
package final class Storm {
  /// What happens in it.
  package struct Options: Sendable {
    /// Pixels across.
    package var width = 1920
    /// Rows on screen.
    package var height = 1080
    /// For the choice of pages, the same ones for the same seed.
    package var seed: UInt64 = 1
    /// Ends when so many pages were discarded.
    package var punches: UInt64 = 20_000
    /// Ends after so many seconds, 0 for no end.
    package var seconds: UInt64 = 0
    /// Consumers, each with a connection of its own.
    package var consumers = 2
    /// Runs of pages that are discarded for each frame, on average.
    package var burstsPerFrame: UInt64 = 4
    /// Guest memory in huge pages of 2 MiB.
    package var hugePages = false
    /// Pages of 4 KiB at the start of the memory's first 2 MiB that do not belong to the picture,
    /// 0 to 511: it begins inside a huge page then, as a guest's framebuffers do.
    package var inset = 0
    /// Ends once so many stale frames were seen, 0 for no end.
    package var enoughStale: UInt64 = 0
    /// The program that discards; ``Puncher/guestProgram`` if nil.
    package var program: String?
    /// The usual.
    package init() {}
  }

  /// What happened.
  package struct Result: Sendable {
    /// Frames that the guest drew and flushed.
    package var frames: UInt64 = 0
    /// Runs of pages that were discarded.
    package var bursts: UInt64 = 0
    /// Pages in them.
    package var discarded: UInt64 = 0
    /// Each consumer's part.
    package var consumers: [StormConsumer.Seen] = []
    /// Nanoseconds from the first frame to the last.
    package var time: UInt64 = 0
    /// The longest flush in nanoseconds, the consumers' checks included.
    package var longestFlush: UInt64 = 0

    /// Frames that were compared, by all consumers.
    package var checked: UInt64 { consumers.reduce(0) { $0 + $1.checked } }
    /// Those that were the guest's own pages.
    package var direct: UInt64 { consumers.reduce(0) { $0 + $1.direct } }
    /// Those that showed what was not the guest's.
    package var stale: UInt64 { consumers.reduce(0) { $0 + $1.stale } }

    /// One line.
    package var description: String {
      let generations = consumers.reduce(0) { $0 + $1.generations }
      let early = consumers.reduce(0) { $0 + $1.early }
      return """
        frames \(frames) bursts \(bursts) discarded-pages \(discarded) checked \(checked) \
        direct \(direct) copies \(checked - direct) early \(early) generations \(generations) \
        stale \(stale) seconds \(time / 1_000_000_000) flush-max-ms \(longestFlush / 1_000_000)
        """
    }
  }

  /// Told now and then what has happened so far.
  package var progress: ((Result) -> Void)?
  private static let resource: UInt32 = 1
  private static let spareRows = 4
  private let options: Options
  private let driver: GPUDriver
  private let pages: GuestPages
  private let control: StormControl
  private let scene: StormScene
  private let consumers: [StormConsumer]
  private let puncher: ChildProcess
  private var longestFlush: UInt64 = 0

  /// Connects to a running pinhole.
  package init(socket: String, framesSocket: String, _ options: Options) throws(GuestError) {
    self.options = options
    let rows = options.height + Self.spareRows
    // Whole huge pages, whatever the memory is made of; all of them are discarded.
    let count = (options.inset * 4096 + options.width * 4 * rows + 0x1f_ffff) / 0x20_0000 * 512
    let ram = try GuestRAM(
      size: UInt64(count) * 4096 + (16 << 20), hugePageSize: options.hugePages ? 2 << 20 : 0)
    driver = try GPUDriver(try VhostUserFrontEnd(path: socket, ram: ram))
    guard driver.features & Feature.resourceBlob != 0 else {
      throw .unsupported("the device does not offer blob resources")
    }
    let all = try ram.allocate(pages: count, .contiguous(alignment: 2 << 20))
    pages = GuestPages(Array(all.addresses[options.inset...]))
    try driver.perform(
      .createBlob(Self.resource, size: UInt64(pages.byteCount), pages.entries()))
    control = try StormControl(pages: count)
    scene = StormScene(
      ram, pages, first: options.inset, stride: options.width * 4, control: control,
      consumers: options.consumers)
    var consumers: [StormConsumer] = []
    for number in 0..<options.consumers {
      consumers.append(try StormConsumer(path: framesSocket, scene: scene, number: number))
    }
    self.consumers = consumers
    let unit = options.hugePages ? 2 << 20 : 4096
    puncher = try ChildProcess.start(
      [
        options.program ?? Puncher.guestProgram, "storm-punch", "--seed",
        "\(options.seed)", "--start", "\(ram.fileOffset(ofGuest: all.start) ?? 0)", "--unit",
        "\(unit)", "--bursts-per-frame", "\(options.burstsPerFrame)",
      ], fds: [(ram.fd.raw, 3), (control.fd.raw, 4)])
  }

  /// Goes on until enough pages were discarded, or the time is up.
  package func run() throws(GuestError) -> Result {
    defer {
      control.stop()
      scene.stop()
    }
    let start = Clock.now
    let end = options.seconds == 0 ? UInt64.max : start + options.seconds * 1_000_000_000
    var frame: UInt64 = 0
    while control.discarded < options.punches, Clock.now < end {
      frame += 1
      try play(frame)
      if frame % 32 == 0, let progress {
        var sofar = current
        sofar.frames = frame
        progress(sofar)
      }
      if options.enoughStale > 0, current.stale >= options.enoughStale { break }
      if let status = puncher.status {
        throw .unsupported(
          "the process that discards ended: status \(status), errno \(control.failure)")
      }
    }
    var result = current
    result.frames = frame
    result.time = Clock.now - start
    try driver.perform(.unref(Self.resource))
    return result
  }

  private var current: Result {
    var result = Result()
    result.bursts = control.bursts
    result.discarded = control.discarded
    result.consumers = consumers.map(\.seen)
    result.longestFlush = longestFlush
    return result
  }

  private func play(_ frame: UInt64) throws(GuestError) {
    let start = Clock.now
    scene.draw(frame: frame)
    let (width, height) = (UInt32(options.width), UInt32(options.height))
    let rect = Rect(x: 0, y: StormScene.top(of: frame), width: width, height: height)
    try driver.send(
      .setScanoutBlob(
        0, resource: Self.resource, rect, format: .b8g8r8x8, width: width,
        height: height + UInt32(Self.spareRows), stride: width * 4))
    let flushed = Clock.now
    var isOK = false
    try driver.send(.flush(Self.resource, rect).fenced(frame)) { isOK = $0.response.isOK }
    try driver.drain()
    guard isOK else { throw .violation("the flush of frame \(frame) was refused") }
    try waitForConsumers(frame)
    let now = Clock.now
    longestFlush = max(longestFlush, now - flushed)
    control.frameDone(microseconds: (now - start) / 1000)
  }

  private func waitForConsumers(_ frame: UInt64) throws(GuestError) {
    let deadline = Clock.now + 30_000_000_000
    while true {
      let waiting = scene.waiting(for: frame)
      guard let first = waiting.first else { return }
      if let failure = consumers[first].seen.failure {
        throw .closed("the storm, consumer \(first): \(failure)")
      }
      guard Clock.now < deadline else {
        throw .timedOut("frame \(frame) at consumers \(waiting)")
      }
      StormScene.nap()
    }
  }
}

extension StormScene {
  /// Lets others run.
  static func nap() { usleep(50) }
}
