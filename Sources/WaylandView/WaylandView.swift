import CWayland
import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeInput
import Pixels

/// Shows an output of a guest in a window: the guest's own pages where the compositor imports
/// them, copies in memory of our own otherwise.
public final class WaylandView {
  /// What an operator says.
  public struct Options: Sendable {
    /// The producer's socket.
    public var frames: String
    /// Which output of the guest, from 0.
    public var output: UInt32 = 0
    /// The control socket of `pinhole input`; the window only shows without it.
    public var input: String?
    /// All of the screen.
    public var fullscreen = false
    /// Never the guest's pages.
    public var copyOnly = false

    /// A window of the first output.
    public init(frames: String) { self.frames = frames }
  }

  /// What is in the window, or will be with the compositor's next frame.
  private enum Picture {
    case own(ShmPicture)
    case guest(GuestPages)

    func shows(_ name: BufferName) -> Bool {
      if case .guest(let pages) = self { return pages.name == name }
      return false
    }
  }

  private let options: Options
  private let loop: EventLoop
  private let log: Logger
  private let compositor: Compositor
  private let window: Window
  private let seat: Seat?
  private let input: InputLink?
  private let cursor: GuestCursor
  private var token: EventLoop.Token?
  private var wantsRoom = false
  private var consumer: FrameConsumer?
  private var consumerToken: EventLoop.Token?
  private var retry: LoopTimer?
  /// The newest frame that is not in the window.
  private var waiting: ReceivedFrame?
  /// The frame whose pages the compositor was given, until it shows them.
  private var showing: ReceivedFrame?
  private var current: Picture?
  private var pictures: [ShmPicture] = []
  private var imports: [BufferName: GuestPages] = [:]
  private var refused: Set<BufferName> = []
  /// Taken back, and not let go yet.
  private var removals: [BufferName] = []
  /// What is new since the last commit.
  private var damage: [Rect] = []
  private var size: (width: UInt32, height: UInt32) = (640, 480)
  /// Black has to take the place of what is in the window.
  private var isBlank = true
  private var failure: WaylandError?
  /// Frames shown as the guest's own pages, and as copies.
  public private(set) var shown = (direct: 0, copied: 0)

  /// Connects to the compositor and to the producer.
  ///
  /// - Throws: ``WaylandError``, which says what is missing.
  public init(_ options: Options, on loop: EventLoop, log: Logger) throws(WaylandError) {
    self.options = options
    self.loop = loop
    self.log = log
    compositor = try Compositor()
    window = try Window(compositor, title: "pinhole", fullscreen: options.fullscreen)
    seat = compositor.bindSeat().map { [compositor] in Seat($0, of: compositor) }
    input = options.input.map { InputLink($0, name: "pinhole view", on: loop) }
    cursor = try GuestCursor(compositor)
    do throws(Errno) {
      token = try loop.watch(compositor.fd, for: .readable) { [unowned self] _ in
        keep { () throws(WaylandError) in try compositor.dispatch() }
      }
      retry = LoopTimer(on: loop) { [unowned self] in again() }
    } catch { throw WaylandError("\(error)") }
    do throws(FramesError) { try connect() } catch { throw WaylandError("\(error)") }
    window.presented = { [unowned self] in presented() }
    seat?.entered = { [unowned self] in setCursor() }
    seat?.happened = { [unowned self] events, place in
      input?.send(
        events,
        at: place.map {
          let place = window.inPicture(x: $0.x, y: $0.y)
          return InputPlace(
            output: self.options.output, x: Int32(clamping: place.x), y: Int32(clamping: place.y),
            width: size.width, height: size.height)
        })
    }
    input?.failed = { log.warning("keys are lost: \($0)") }
    loop.everyTurn { [unowned self] in settle() }
  }

  deinit {
    if let token { loop.unwatch(token) }
    if let consumerToken { loop.unwatch(consumerToken) }
  }

  /// How pixels get into the window, for the log.
  public var way: String {
    copiesOnly
      ? "copies, for the compositor has no zwp_linux_dmabuf_v1 with linear buffers, or copies are wanted"
      : "the guest's pages, where the compositor imports them"
  }

  /// Shows frames until the window is closed or the loop is stopped.
  ///
  /// - Throws: ``WaylandError`` when the compositor is gone.
  public func run() throws(WaylandError) {
    settle()
    do throws(Errno) { try loop.run() } catch { throw WaylandError("\(error)") }
    if let failure { throw failure }
  }

  private var copiesOnly: Bool {
    options.copyOnly || compositor.dmabuf == nil || compositor.linearFormats.isEmpty
  }

  private func keep(_ body: () throws(WaylandError) -> Void) {
    do throws(WaylandError) { try body() } catch {
      failure = failure ?? error
      loop.stop()
    }
  }

  // MARK: The producer

  private func connect() throws(FramesError) {
    var wishes = FrameConsumer.Options(
      name: "pinhole view", copyOnly: copiesOnly, closesRemovedBuffers: false)
    wishes.patience = 0
    let made = try FrameConsumer(path: options.frames, options: wishes)
    do throws(Errno) {
      consumerToken = try loop.watch(made.fd, for: .readable) { [unowned self] _ in receive() }
    } catch { throw .system(error) }
    consumer = made
  }

  private func again() {
    do throws(FramesError) {
      try connect()
      log.info("the producer on \(options.frames) is back")
    } catch { retry?.arm(after: 500_000_000) }
  }

  private func lost(_ error: FramesError) {
    guard consumer != nil else { return }
    log.warning("the producer on \(options.frames) is gone: \(error)")
    if let consumerToken { loop.unwatch(consumerToken) }
    consumerToken = nil
    consumer = nil
    waiting = nil
    showing = nil
    removals = []
    refused = []
    // Pages of a guest that is gone are not looked at; a copy stays.
    if case .guest? = current { isBlank = true }
    imports = imports.filter { current?.shows($0.key) == true }
    removals = Array(imports.keys)
    retry?.arm(after: 500_000_000)
  }

  private func receive() {
    guard let consumer else { return }
    do throws(FramesError) {
      for _ in 0..<64 {
        guard let event = try consumer.next(timeout: 0) else { return }
        try take(event, of: consumer)
      }
    } catch { lost(error) }
  }

  private func take(
    _ event: FrameConsumer.Event, of consumer: FrameConsumer
  ) throws(FramesError) {
    switch event {
    case .output(let state) where state.output == options.output:
      if state.isEnabled { size = (state.width, state.height) }
      isBlank = true
    case .frame(let frame):
      guard frame.output == options.output else { return try consumer.done(frame) }
      if let older = waiting { try consumer.done(older) }
      waiting = frame
      isBlank = false
      note(frame.damage)
    case .bufferRemoved(let name, let reason):
      if waiting?.buffer == name { waiting = nil }
      if showing?.buffer == name { showing = nil }
      if current?.shows(name) == true, waiting == nil { isBlank = true }
      if reason == .reset || reason == .memory, waiting == nil { isBlank = true }
      removals.append(name)
    case .cursor(let new) where new.output == options.output:
      keep { () throws(WaylandError) in
        try cursor.take(new)
        setCursor()
      }
    default: break
    }
  }

  private func note(_ rects: [Rect]) {
    for rect in rects { for picture in pictures { picture.touch(rect) } }
    damage += rects
    guard damage.count > 32, let first = damage.first else { return }
    damage = [damage.dropFirst().reduce(first) { $0.union($1) }]
  }

  // MARK: The window

  private func setCursor() {
    guard let seat, let pointer = seat.pointer else { return }
    cursor.set(pointer, seat.serial)
  }

  private func presented() {
    guard let frame = showing, let consumer else { return }
    showing = nil
    // From now on the guest may draw into it, as it may into what any display has shown.
    do throws(FramesError) { try consumer.done(frame) } catch { lost(error) }
  }

  private func settle() {
    if window.isClosed { return loop.stop() }
    keep { () throws(WaylandError) in
      try showNewest()
      letGo()
      let isOut = try compositor.flush()
      guard isOut == wantsRoom, let token else { return }
      wantsRoom = !isOut
      try? loop.change(token, to: wantsRoom ? [.readable, .writable] : .readable)
    }
  }

  private func showNewest() throws(WaylandError) {
    guard window.isConfigured else { return }
    if isBlank, waiting == nil {
      guard let black = try ownPicture(fresh: true) else { return }
      isBlank = false
      damage = []
      show(.own(black), black.buffer, black.width, black.height, [whole])
      return
    }
    guard !window.awaitsFrame || removals.contains(where: { current?.shows($0) == true }),
      let frame = waiting, let consumer, let buffer = consumer.buffers[frame.buffer]
    else { return }
    size = (frame.crop.width, frame.crop.height)
    if let pages = pages(of: buffer, frame) {
      guard pages.state == .ready, let imported = pages.buffer else { return }
      waiting = nil
      // One that was given and not shown is not read either.
      if let older = showing {
        do throws(FramesError) { try consumer.done(older) } catch { lost(error) }
      }
      showing = frame
      pages.isBusy = true
      shown.direct += 1
      show(.guest(pages), imported, Int(size.width), Int(size.height), takeDamage(frame))
      return
    }
    guard let picture = try ownPicture() else { return }
    waiting = nil
    copy(frame, buffer, to: picture)
    shown.copied += 1
    show(.own(picture), picture.buffer, picture.width, picture.height, takeDamage(frame))
    do throws(FramesError) { try consumer.done(frame) } catch { lost(error) }
  }

  private var whole: Rect { Rect(x: 0, y: 0, width: size.width, height: size.height) }

  private func takeDamage(_ frame: ReceivedFrame) -> [Rect] {
    defer { damage = [] }
    // Another kind of picture, or the first one, has nothing before it.
    return frame.isFull || current == nil ? [whole] : damage
  }

  private func show(
    _ picture: Picture, _ buffer: OpaquePointer, _ width: Int, _ height: Int,
    _ damage: [Rect]
  ) {
    if case .own(let own) = picture { own.isBusy = true }
    current = picture
    window.show(buffer, width: UInt32(width), height: UInt32(height), damage: damage)
  }

  /// The buffer's import, if the compositor takes it or is being asked.
  private func pages(of buffer: ReceivedBuffer, _ frame: ReceivedFrame) -> GuestPages? {
    // A part of a buffer would need wp_viewporter.
    guard !refused.contains(buffer.name), frame.crop.x == 0, frame.crop.y == 0,
      frame.crop.width == buffer.width, frame.crop.height == buffer.height
    else { return nil }
    let known = imports[buffer.name] ?? GuestPages(compositor, buffer)
    guard let known, known.state != .refused else {
      if known != nil { log.info("the compositor does not import \(buffer): copied") }
      refused.insert(buffer.name)
      imports[buffer.name] = nil
      return nil
    }
    imports[buffer.name] = known
    return known
  }

  /// A picture of the window's size that the compositor does not read.
  ///
  /// - Parameter fresh: all black.
  private func ownPicture(fresh: Bool = false) throws(WaylandError) -> ShmPicture? {
    let (width, height) = (Int(size.width), Int(size.height))
    pictures.removeAll { !$0.isBusy && ($0.width != width || $0.height != height || fresh) }
    let fitting = pictures.filter { $0.width == width && $0.height == height }
    if !fresh, let free = fitting.first(where: { !$0.isBusy }) { return free }
    guard pictures.count < 4 else { return nil }
    let made = try ShmPicture(compositor, width: width, height: height)
    pictures.append(made)
    return made
  }

  private func copy(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer, to picture: ShmPicture) {
    guard let stale = picture.takeStale() else { return }
    let source = Rect(
      x: frame.crop.x + stale.x, y: frame.crop.y + stale.y, width: stale.width,
      height: stale.height)
    guard source.fits(width: buffer.width, height: buffer.height) else { return }
    do throws(FramesError) {
      if let packed = buffer.layout.packed, [.xrgb8888, .argb8888].contains(buffer.fourcc) {
        try buffer.read { bytes in
          guard let base = bytes.baseAddress else { return }
          picture.put(stale) { line in
            let y = Int(source.y) + line
            let row = buffer.isYInverted ? Int(buffer.height) - 1 - y : y
            return base + Int(packed.offset) + row * Int(packed.stride) + Int(source.x) * 4
          }
        }
      } else {
        var colours: [UInt32] = []
        try buffer.read(colours: &colours, of: source)
        picture.put(stale, colours)
      }
    } catch { log.warning("a frame cannot be read: \(error)") }
  }

  /// Lets go what was taken back, once the compositor does not read it any more.
  private func letGo() {
    guard !removals.isEmpty else { return }
    var left: [BufferName] = []
    for name in removals {
      if current?.shows(name) == true || imports[name]?.isBusy == true {
        left.append(name)
        continue
      }
      imports[name] = nil
      refused.remove(name)
      guard let consumer else { continue }
      do throws(FramesError) { try consumer.closed(name) } catch { return lost(error) }
    }
    removals = left
  }
}
