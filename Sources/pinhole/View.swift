import ArgumentParser
import Command
import Glibc
import HelperOptions
import Linux
import PinholeFrames
import PinholeProtocol

/// `pinhole view`: prints what a producer of frames tells, and writes its pictures.
struct View: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "view",
    abstract: "Print what a frame socket tells, one event a line, and write its pictures.",
    discussion: """
      In a terminal a table of the outputs is shown instead of the events, unless --png or \
      --once is given.

      Exit status 0 after the wanted number of frames, or when the producer or who reads the \
      events ends; 1 when the connection or a file fails, 2 for a mistake on the command line.
      """)

  @Option(name: .customLong("frames-socket"), help: "The producer's socket.")
  var socket: String

  @Option(
    name: .customLong("png"),
    help: ArgumentHelp("Write each frame to DIR/outputN-SERIAL.png.", valueName: "dir"))
  var directory: String?

  @Option(
    name: .customLong("y4m"),
    help: ArgumentHelp("Write one output as a YUV4MPEG2 movie.", valueName: "file"))
  var movie: String?

  @Option(help: "Frames a second of the movie.")
  var rate: Int = 60

  @Flag(help: "End after the first frame.")
  var once = false

  @Option(help: "End after this many frames.")
  var count: Int?

  @Option(
    name: .customLong("hold"),
    help: ArgumentHelp("Keep each frame for so many milliseconds.", valueName: "ms"))
  var hold: Int = 0

  @Flag(name: .customLong("copy-only"), help: "Accept nothing but read-only copies.")
  var copyOnly = false

  @Flag(help: "Show it in a window of a Wayland compositor, by another program.")
  var wayland = false

  @OptionGroup(title: "Options with --wayland") var window: WindowOptions

  @Option(help: "How the producer's log calls this consumer.")
  var name: String = "pinhole view"

  func validate() throws {
    if window.areGiven {
      throw ValidationError(
        "--output, --input, --fullscreen, --sandbox and --log-level go with --wayland alone")
    }
    if once, count != nil { throw ValidationError("--once and --count exclude each other") }
    if let count, count < 1 { throw ValidationError("--count must be at least 1") }
    if !(1...1000).contains(rate) { throw ValidationError("--rate takes 1 to 1000") }
    if !(0...60_000).contains(hold) { throw ValidationError("--hold takes 0 to 60000 ms") }
  }

  func run() throws {
    do {
      try makeDirectory()
      try watch()
    } catch ViewError.readerGone {
      // As head(1) ends what it reads from: nobody asks for more.
    } catch {
      throw Failure("view: \(error)")
    }
  }

  private func watch() throws {
    let consumer = try FrameConsumer(
      path: socket, options: .init(name: name, copyOnly: copyOnly, isExplicit: true))
    let wanted = once ? 1 : count
    var frames = 0
    var table = isLive ? ViewTable() : nil
    let movie = try self.movie.map { try ViewMovie($0, rate: rate) }
    // Where that fails, nobody looks any more.
    defer { try? table?.draw(force: true) }
    while wanted.map({ frames < $0 }) ?? true {
      guard let event = try next(of: consumer, &table) else {
        if wanted == nil { return }
        throw ViewError("the producer ended after \(frames) frames")
      }
      if case .frame(let frame) = event {
        try show(frame, of: consumer, movie)
        table?.released(frame)
        frames += 1
      }
      try table?.draw()
    }
  }

  /// Somebody looks at a terminal and has not asked for a record.
  private var isLive: Bool { isatty(1) == 1 && directory == nil && !once }

  /// Prints the next event; nil when the producer ends.
  private func next(
    of consumer: FrameConsumer, _ table: inout ViewTable?
  ) throws -> FrameConsumer.Event? {
    do {
      // What is not drawn yet is drawn when nothing more comes.
      var event = try consumer.next(timeout: table == nil ? -1 : 100)
      while event == nil {
        try table?.draw(force: true)
        event = try consumer.next()
      }
      guard let event else { return nil }
      if table == nil { try ViewOutput.write("\(event)\n") }
      table?.note(event, of: consumer)
      return event
    } catch FramesError.refused(let refusal) {
      guard refusal.code == PINHOLE_ERROR_SHUTDOWN.rawValue else {
        throw FramesError.refused(refusal)
      }
      try ViewOutput.write("end \(refusal.text.printable)\n")
      return nil
    }
  }

  private func show(
    _ frame: ReceivedFrame, of consumer: FrameConsumer, _ movie: ViewMovie?
  ) throws {
    // The guest may wait for this frame: copy it, let it go, and only then write the file.
    var picture: FramePicture?
    if directory != nil || movie != nil, let buffer = consumer.buffers[frame.buffer] {
      picture = try FramePicture(frame, buffer)
    }
    if hold > 0 { usleep(UInt32(hold) * 1000) }
    try consumer.done(frame)
    if let picture { try movie?.add(frame, picture) }
    guard let directory else { return }
    try picture?.write("\(directory)/output\(frame.output)-\(frame.serial).png")
  }

  private func makeDirectory() throws {
    guard let directory else { return }
    if mkdir(directory, 0o755) != 0, errno != EEXIST {
      throw ViewError(
        "cannot make the directory \(directory): \(String(cString: strerror(errno)));"
          + " choose another --png")
    }
  }
}
