import Linux
import Logging
import PinholeFrames
import PinholeProtocol
import Pixels
import RFB

/// Frames of all outputs, as read-only copies; connects again when the producer comes back.
///
/// Frames are answered only when a viewer waits for a newer one: nothing is copied that nobody
/// will see.
final class FrameSource {
  /// What is told to those who watch an output.
  enum News {
    case damage([Area])
    case everything
    case cursor(CursorImage?, x: Int, y: Int)
  }

  /// How many outputs there can be, `PINHOLE_MAX_OUTPUTS`.
  static let maxOutputs = Int(PINHOLE_MAX_OUTPUTS)

  /// What each output shows.
  let screens = (0..<FrameSource.maxOutputs).map { _ in Screen() }
  /// Called with what is new on an output.
  var tell: (Int, News) -> Void = { _, _ in }
  private let path: String
  private let loop: EventLoop
  private let log: Logger
  private var consumer: FrameConsumer?
  private var token: EventLoop.Token?
  private var retry: LoopTimer?
  /// Frames that were not answered, by output.
  private var owed = [[ReceivedFrame]](repeating: [], count: FrameSource.maxOutputs)
  private var cursors = [CursorImage?](repeating: nil, count: FrameSource.maxOutputs)
  /// The last cursor of each output, for viewers that come later.
  private var places = [(image: CursorImage?, x: Int, y: Int)](
    repeating: (nil, 0, 0), count: FrameSource.maxOutputs)

  /// Connects.
  ///
  /// - Throws: ``FramesError/cannotConnect(path:_:)`` if nobody listens.
  init(_ path: String, on loop: EventLoop, log: Logger) throws(FramesError) {
    self.path = path
    self.loop = loop
    self.log = log
    retry = LoopTimer(on: loop) { [unowned self] in again() }
    try connect()
  }

  /// The cursor of an output now.
  func cursor(of output: Int) -> (image: CursorImage?, x: Int, y: Int) { places[output] }

  /// A viewer of this output wants a newer picture.
  ///
  /// - Returns: whether the producer might have one.
  @discardableResult
  func release(_ output: Int) -> Bool {
    guard let consumer, !owed[output].isEmpty else { return false }
    let frames = owed[output]
    owed[output].removeAll(keepingCapacity: true)
    do throws(FramesError) {
      for frame in frames { try consumer.done(frame) }
    } catch { lost("\(error)") }
    return true
  }

  private func connect() throws(FramesError) {
    var options = FrameConsumer.Options(
      name: "pinhole vnc", copyOnly: true, closesRemovedBuffers: false)
    options.patience = 0
    let consumer = try FrameConsumer(path: path, options: options)
    do throws(Errno) {
      token = try loop.watch(consumer.fd, for: .readable) { [unowned self] _ in receive() }
    } catch { throw .system(error) }
    self.consumer = consumer
  }

  private func again() {
    do throws(FramesError) {
      try connect()
      log.info("the producer on \(path) is back")
    } catch {
      retry?.arm(after: 500_000_000)
    }
  }

  private func lost(_ why: String) {
    guard let old = consumer else { return }
    log.warning("the producer on \(path) is gone: \(why); its last pictures stay until it is back")
    for name in old.buffers.keys { screens.forEach { $0.keep(name) } }
    if let token { loop.unwatch(token) }
    token = nil
    consumer = nil
    for output in owed.indices { owed[output].removeAll() }
    retry?.arm(after: 500_000_000)
  }

  private func receive() {
    guard let consumer else { return }
    do throws(FramesError) {
      // Bounded, so that viewers get their turn.
      for _ in 0..<64 {
        guard let event = try consumer.next(timeout: 0) else { return }
        try take(event, of: consumer)
      }
    } catch { lost("\(error)") }
  }

  private func take(
    _ event: FrameConsumer.Event, of consumer: FrameConsumer
  ) throws(FramesError) {
    switch event {
    case .connected, .bufferAdded: break
    case .output(let state):
      let output = Int(state.output)
      guard screens.indices.contains(output) else { return }
      screens[output].resize(to: state.isEnabled ? (state.width, state.height) : nil)
      tell(output, .everything)
    case .frame(let frame):
      let output = Int(frame.output)
      guard screens.indices.contains(output), let buffer = consumer.buffers[frame.buffer] else {
        return try consumer.done(frame)
      }
      owed[output].append(frame)
      screens[output].show(buffer, frame.crop)
      tell(output, frame.isFull ? .everything : .damage(frame.damage.map(Area.init)))
    case .bufferRemoved(let name, let reason): try removed(name, reason, consumer)
    case .cursor(let cursor): take(cursor)
    }
  }

  private func removed(
    _ name: BufferName, _ reason: RemovalReason, _ consumer: FrameConsumer
  ) throws(FramesError) {
    for output in screens.indices {
      owed[output].removeAll { $0.buffer == name }
      guard screens[output].shows(name) else { continue }
      if reason == .reset || reason == .memory {
        screens[output].blank()
        tell(output, .everything)
      } else {
        screens[output].keep(name)
      }
    }
    try consumer.closed(name)
  }

  private func take(_ cursor: ReceivedCursor) {
    let output = Int(cursor.output)
    guard screens.indices.contains(output) else { return }
    if let image = cursor.image { cursors[output] = CursorImage(image) }
    let place = (
      image: cursor.isVisible ? cursors[output] : nil, x: Int(cursor.x), y: Int(cursor.y)
    )
    places[output] = place
    tell(output, .cursor(place.image, x: place.x, y: place.y))
  }
}

extension Area {
  fileprivate init(_ rect: Rect) {
    self.init(
      x: Int(rect.x), y: Int(rect.y), width: Int(rect.width), height: Int(rect.height))
  }
}

extension CursorImage {
  /// - Returns: nil for a format without alpha in the upper byte, or pixels that are too few.
  fileprivate init?(_ image: ReceivedCursor.Image) {
    let (width, height, stride) = (Int(image.width), Int(image.height), Int(image.stride))
    guard image.fourcc == .argb8888, (1...512).contains(width), (1...512).contains(height),
      stride >= width * 4, image.pixels.count >= stride * (height - 1) + width * 4
    else { return nil }
    var pixels: [UInt32] = []
    pixels.reserveCapacity(width * height)
    for row in 0..<height {
      for column in 0..<width {
        let at = row * stride + column * 4
        pixels.append(
          image.pixels[at..<at + 4].reversed().reduce(0) { $0 << 8 | UInt32($1) })
      }
    }
    self.init(
      width: width, height: height, hotX: Int(image.hotX), hotY: Int(image.hotY), pixels: pixels)
  }
}
