import CLinux
import Glibc
import Linux
import PinholeFrames
import Pixels

/// A consumer of frames in a thread of its own, which reads each picture and lets it go.
///
/// It may be asked from any thread.
package final class FrameWatcher: Sendable {
  /// One frame as it was read.
  package struct Seen: Sendable {
    /// The frame.
    package let frame: ReceivedFrame
    /// Its pixels, read before the frame was let go.
    package let picture: Raster
    /// Whether they are the guest's own pages.
    package let memory: ReceivedBuffer.Memory
  }

  /// Everything that came, as of some moment.
  package struct State: Sendable {
    /// The newest frame of each output.
    package var last: [UInt32: Seen] = [:]
    /// Frames so far.
    package var frames = 0
    /// Those of them that were the guest's own pages.
    package var directFrames = 0
    /// Why buffers were taken back, in order.
    package var removals: [RemovalReason] = []
    /// Buffers that were offered.
    package var additions = 0
    /// Outputs by number.
    package var outputs: [UInt32: OutputState] = [:]
    /// The newest cursor message.
    package var cursor: ReceivedCursor?
    /// What ended the connection.
    package var failure: String?
  }

  private let state = Locked(State())
  private let stop: SharedFD
  private let thread: Locked<ThreadBox?>

  private final class ThreadBox: @unchecked Sendable {
    private let thread: Thread
    init(_ thread: consuming Thread) { self.thread = thread }
  }

  /// Connects and begins to read.
  package init(path: String, copyOnly: Bool = false) throws(GuestError) {
    let consumer: FrameConsumer
    do throws(FramesError) {
      consumer = try FrameConsumer(
        path: path, options: .init(name: "watcher", copyOnly: copyOnly))
    } catch { throw .unsupported("\(error)") }
    let stop = SharedFD(
      try doing("eventfd") { () throws(Errno) in
        OwnedFD(adopting: try check(ph_eventfd(0), "eventfd"))
      })
    self.stop = stop
    let box = SendableBox(consumer)
    let state = self.state
    thread = Locked(
      ThreadBox(
        try doing("frame watcher") { () throws(Errno) in
          try Thread("frame-watcher") { Self.watch(box.value, state, stop) }
        }))
  }

  deinit {
    _ = ph_eventfd_signal(stop.raw)
    thread.withLock { $0 = nil }
  }

  /// What came so far.
  package var now: State { state.withLock { $0 } }

  /// Waits until what has come satisfies a condition.
  ///
  /// - Returns: false when it did not within `milliseconds`.
  @discardableResult
  package func wait(milliseconds: Int = 5000, _ condition: (State) -> Bool) -> Bool {
    looksInTime(milliseconds, pause: 100) { state.withLock { condition($0) } }
  }

  /// Waits until an output shows a picture.
  ///
  /// - Returns: how the newest frame differs from it, nil if it does not.
  package func difference(
    from picture: Raster, output: UInt32 = 0, milliseconds: Int = 5000
  ) -> String? {
    if wait(milliseconds: milliseconds, { $0.last[output]?.picture == picture }) { return nil }
    guard let seen = now.last[output] else { return "no frame: \(now.failure ?? "connected")" }
    return seen.picture.difference(from: picture)
  }

  private static func watch(_ consumer: FrameConsumer, _ state: Locked<State>, _ stop: SharedFD) {
    do throws(FramesError) {
      while true {
        let ready = waitReadable([stop.raw, consumer.fd], milliseconds: 60_000)
        if ready[0] { return }
        while let event = try consumer.next(timeout: 0) { try take(event, consumer, state) }
      }
    } catch { state.withLock { $0.failure = "\(error)" } }
  }

  private static func take(
    _ event: FrameConsumer.Event, _ consumer: FrameConsumer, _ state: Locked<State>
  ) throws(FramesError) {
    switch event {
    case .connected: break
    case .output(let output): state.withLock { $0.outputs[output.output] = output }
    case .bufferAdded: state.withLock { $0.additions += 1 }
    case .bufferRemoved(_, let reason): state.withLock { $0.removals.append(reason) }
    case .cursor(let cursor): state.withLock { $0.cursor = cursor }
    case .frame(let frame):
      let buffer = consumer.buffers[frame.buffer]
      let bytes = try buffer?.pixels(of: frame.crop)
      // Before anything slow: a frame that is held too long costs the next one its directness.
      try consumer.done(frame)
      guard let buffer, let bytes else { return }
      let seen = Seen(frame: frame, picture: raster(bytes, frame.crop), memory: buffer.memory)
      state.withLock {
        $0.frames += 1
        if buffer.memory == .dmaBuf { $0.directFrames += 1 }
        $0.last[frame.output] = seen
      }
    }
  }

  /// Reads DRM_FORMAT_XRGB8888 pixels, the only format that guests here draw in.
  private static func raster(_ bytes: [UInt8], _ crop: Rect) -> Raster {
    let count = Int(crop.width) * Int(crop.height)
    let pixels = [UInt32](unsafeUninitializedCapacity: count) { out, filled in
      bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(out).copyMemory(from: $0) }
      filled = count
    }
    return Raster(width: Int(crop.width), height: Int(crop.height), pixels: pixels)
  }
}
