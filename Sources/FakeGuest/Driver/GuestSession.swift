import Linux

/// A guest that draws pictures on one scanout, while its pages may be discarded under it.
package final class GuestSession {
  /// How much of the picture's memory is discarded before a frame is drawn.
  package enum Discard: Equatable, Sendable {
    /// Nothing.
    case none
    /// Random pages, the given number of them.
    case pages(Int)
    /// All pages of the picture.
    case all
  }

  /// What the guest does.
  package struct Options: Sendable {
    /// Width of the pictures in pixels.
    package var width = 640
    /// Height of the pictures in pixels.
    package var height = 480
    /// What is drawn.
    package var picture = TestPicture.smpte
    /// How its pixels lie in memory.
    package var format = PixelFormat.b8g8r8x8
    /// Pages all over the memory instead of one run.
    package var scattered = false
    /// Two buffers, shown in turn, instead of one.
    package var flip = false
    /// Blob resources, with fenced flushes.
    package var blob = false
    /// What is discarded before each frame.
    package var discard = Discard.none
    /// For scattering and for the choice of pages.
    package var seed: UInt64 = 1
    /// One buffer, nothing discarded.
    package init() {}
  }

  /// What has happened so far.
  package struct Counters: Sendable {
    /// Frames flushed.
    package var frames = 0
    /// Pages discarded.
    package var discardedPages: UInt64 = 0
    /// Frames that QEMU's display showed otherwise than drawn.
    package var wrongPictures = 0
    /// Nanoseconds from a frame's first command to its last answer, summed up.
    package var flushTime: UInt64 = 0
    /// The longest of them.
    package var longestFlush: UInt64 = 0
    /// No frame yet.
    package init() {}
  }

  /// The driver.
  package let driver: GPUDriver
  /// The buffers that are shown in turn.
  package let buffers: [Framebuffer]
  /// What has happened so far.
  package private(set) var counters = Counters()
  private let options: Options
  private let puncher: Puncher?
  private var random: SeededRandom
  private var shown: Framebuffer?

  /// Bytes of RAM that such a guest needs.
  package static func memory(for options: Options) -> UInt64 {
    let pictures = UInt64(options.width * options.height * 4 * 2)
    return (pictures * 2 + (64 << 20)) & ~0x1f_ffff
  }

  /// Starts the driver and makes the buffers; nothing is shown yet.
  package init(_ transport: any DeviceTransport, _ options: Options) throws(GuestError) {
    self.options = options
    random = SeededRandom(seed: options.seed)
    driver = try GPUDriver(transport)
    if options.blob, driver.features & Feature.resourceBlob == 0 {
      throw .unsupported("the device does not offer blob resources")
    }
    var buffers: [Framebuffer] = []
    for id in 1...(options.flip ? 2 : 1) as ClosedRange<UInt32> {
      buffers.append(
        try Framebuffer(
          driver, resource: id, width: options.width, height: options.height,
          kind: options.blob ? .blob : .twoD,
          placement: options.scattered
            ? .scattered(seed: options.seed &+ UInt64(id)) : .contiguous(),
          format: options.format))
    }
    self.buffers = buffers
    puncher = options.discard == .none ? nil : try Puncher(driver.ram.fd.raw)
  }

  /// Discards, draws and flushes one frame.
  ///
  /// - Returns: the picture that was drawn.
  @discardableResult
  package func play(frame number: Int) throws(GuestError) -> Raster {
    let buffer = buffers[number % buffers.count]
    try discard(from: buffer)
    let picture = options.picture.render(
      width: options.width, height: options.height, frame: number)
    buffer.draw(picture)
    let start = Clock.now
    // As Linux does: the new scanout between the transfer and the flush, and one kick for all.
    var commands = buffer.flushCommands(fence: options.blob ? UInt64(number) + 1 : nil)
    if shown !== buffer { commands.insert(buffer.showCommand(), at: 1) }
    shown = buffer
    try driver.perform(together: commands)
    let taken = Clock.now - start
    counters.flushTime += taken
    counters.longestFlush = max(counters.longestFlush, taken)
    counters.frames += 1
    return picture
  }

  /// The balloon takes pages; the guest gets new ones when it draws.
  private func discard(from buffer: Framebuffer) throws(GuestError) {
    guard let puncher else { return }
    var offsets = driver.ram.fileOffsets(of: buffer.pages)
    if case .pages(let count) = options.discard {
      offsets = (0..<count).compactMap { _ in offsets.randomElement(using: &random) }
    }
    for offset in offsets { try puncher.discard(offset: offset, count: 4096) }
    counters.discardedPages += UInt64(offsets.count)
  }

  /// Compares what QEMU's display shows with what was drawn, and counts it if it differs.
  ///
  /// - Returns: what the display shows; nil if that cannot be seen.
  package func compare(
    with picture: Raster, on display: FakeDisplay, milliseconds: Int = 2000
  ) -> Raster? {
    func screen(_ state: FakeDisplay.State) -> Raster? {
      guard let surface = state.surfaces[0], !surface.pixels.isEmpty else { return nil }
      return Raster(width: surface.width, height: surface.height, pixels: surface.pixels)
    }
    // The display's messages come on a socket of their own, some time after the answer.
    if !display.wait(milliseconds: milliseconds, { screen($0) == picture }) {
      counters.wrongPictures += 1
    }
    return screen(display.now)
  }
}
