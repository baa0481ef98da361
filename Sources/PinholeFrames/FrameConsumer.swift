import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

/// A connection to a producer of frames, such as `pinhole --frames-socket PATH`.
///
/// ```swift
/// let consumer = try FrameConsumer(path: "/run/pinhole/frames")
/// while let event = try consumer.next() {
///   guard case .frame(let frame) = event else { continue }
///   let pixels = try consumer.buffers[frame.buffer]?.pixels(of: frame.crop)
///   try consumer.done(frame)
/// }
/// ```
///
/// It belongs to one thread. Wait with ``next(timeout:)``, or poll ``fd`` in a loop of your own
/// and call ``next(timeout:)`` with 0 until it returns nil.
public final class FrameConsumer {
  /// What a consumer asks for.
  public struct Options: Sendable {
    /// Tells people who is looking; cut at 31 bytes.
    public var name: String
    /// Demands read-only copies instead of dma-bufs (`PINHOLE_CONSUMER_COPY_ONLY`).
    public var copyOnly: Bool
    /// Frames may come with a fence, and ``FrameConsumer/done(_:fence:)`` may take one.
    public var takesFences: Bool
    /// ``FrameConsumer/done(_:point:)`` may take a point of a timeline, where the producer agrees.
    public var takesTimelines: Bool
    /// Promises that a frame which is done, or whose fence has signalled, is not read any more by
    /// any device either (`PINHOLE_CONSUMER_EXPLICIT`): for readers with the CPU, and those whose
    /// drivers do nothing without being told.
    public var isExplicit: Bool
    /// Rows shall begin at multiples of so many bytes, a power of two up to 4096; 0 for any.
    public var strideAlignment: UInt32
    /// There shall be memory for a multiple of so many rows; 0 for any.
    public var heightAlignment: UInt32
    /// Buffers may be a GPU's images, of any format, modifier and number of planes, which only
    /// an import can read (`PINHOLE_FEATURE_MODIFIERS`).
    public var takesModifiers: Bool
    /// With ``copyOnly``: all copies shall be told of before the first frame, and more frames may be
    /// unanswered, because others get them from here (`PINHOLE_FEATURE_POOL`).
    public var takesPool: Bool = false
    /// A picture of more pixels is a mistake of the producer; whatever it claims, it shall not
    /// fill this process's memory.
    public var mostPixels: UInt64 = 1 << 27
    /// Milliseconds to wait for a producer that does not accept, as one that is stopped; 0 for a
    /// loop that must not wait, and tries again later.
    public var patience = UnixSocket.patience
    /// Closes a removed buffer before ``Event/bufferRemoved(_:reason:)`` is returned.
    ///
    /// Leave it on unless you import descriptors elsewhere; then call
    /// ``FrameConsumer/closed(_:)`` when the import is gone.
    public var closesRemovedBuffers: Bool

    /// Asks for whatever the producer offers.
    public init(
      name: String = "consumer", copyOnly: Bool = false, takesFences: Bool = false,
      takesTimelines: Bool = false, isExplicit: Bool = false, strideAlignment: UInt32 = 0,
      heightAlignment: UInt32 = 0, takesModifiers: Bool = false,
      closesRemovedBuffers: Bool = true
    ) {
      self.name = name
      self.copyOnly = copyOnly
      self.takesFences = takesFences
      self.takesTimelines = takesTimelines
      self.isExplicit = isExplicit
      self.strideAlignment = strideAlignment
      self.heightAlignment = heightAlignment
      self.takesModifiers = takesModifiers
      self.closesRemovedBuffers = closesRemovedBuffers
    }
  }

  /// What the producer tells.
  public enum Event {
    /// The producer accepted us; always the first event.
    case connected(Producer)
    /// An output shows a picture of this size, or nothing.
    case output(OutputState)
    /// There is memory that frames will refer to.
    case bufferAdded(ReceivedBuffer)
    /// There is something new to see; answer with ``FrameConsumer/done(_:fence:)``.
    case frame(ReceivedFrame)
    /// A buffer was taken back.
    case bufferRemoved(BufferName, reason: RemovalReason)
    /// A cursor moved, changed or was hidden.
    case cursor(ReceivedCursor)
  }

  /// The producer, once it has answered.
  public internal(set) var producer: Producer?
  /// What can be read now.
  public internal(set) var buffers: [BufferName: ReceivedBuffer] = [:]
  /// What the outputs show, by number.
  public internal(set) var outputs: [UInt32: OutputState] = [:]
  var removed: [BufferName: ReceivedBuffer] = [:]
  /// The last frame of each output.
  var shown: [UInt32: (serial: UInt64, crop: Rect)] = [:]
  /// The outputs that have a cursor's image.
  var cursors: Set<UInt32> = []
  /// The frames of each output that were not answered, with their buffers.
  var unanswered: [UInt32: [UInt64: BufferName]] = [:]
  let socket: SharedFD
  /// The producer, as far as the closing of what it sends is concerned.
  let sender = Sender.connection()
  let options: Options
  /// What was asked for.
  let hello: ConsumerHello
  private var outbox = Outbox()
  let scratch: UnsafeMutableRawBufferPointer

  /// Connects to a producer's socket and introduces itself.
  ///
  /// The answer comes as the first event, ``Event/connected(_:)``.
  ///
  /// - Throws: ``FramesError/cannotConnect(path:_:)``, also when nobody has accepted for
  ///   ``Options/patience``.
  public convenience init(path: String, options: Options = Options()) throws(FramesError) {
    let socket: OwnedFD
    do throws(Errno) {
      socket = try UnixSocket.connect(path, kind: .seqpacket, patience: options.patience)
    } catch {
      throw .cannotConnect(path: path, error)
    }
    try self.init(socket: socket, options: options)
  }

  /// Takes over a connected `SOCK_SEQPACKET` socket and introduces itself.
  public init(socket: consuming OwnedFD, options: Options = Options()) throws(FramesError) {
    self.socket = SharedFD(socket)
    self.options = options
    scratch = .allocate(byteCount: Int(PINHOLE_MAX_MESSAGE), alignment: 8)
    hello = options.hello
    try send(hello.wire)
  }

  deinit { scratch.deallocate() }

  /// Readable when ``next(timeout:)`` has something to return.
  public var fd: CInt { socket.raw }

  /// Waits for the next event.
  ///
  /// - Parameter timeout: milliseconds, 0 to return at once, -1 to wait for ever.
  /// - Returns: nil when the time is up.
  /// - Throws: ``FramesError``; the connection is of no use afterwards.
  public func next(timeout: CInt = -1) throws(FramesError) -> Event? {
    let end = timeout < 0 ? nil : Clock.now &+ UInt64(timeout) &* 1_000_000
    var uneventful = 0
    while true {
      try outbox.flush(to: socket.raw)
      let now = Clock.now
      let left = end.map { CInt(clamping: ($0 &- min(now, $0) &+ 999_999) / 1_000_000) } ?? -1
      let wishes = outbox.isEmpty ? POLLIN : POLLIN | POLLOUT
      var poll = pollfd(fd: socket.raw, events: Int16(wishes), revents: 0)
      do throws(Errno) {
        if try retrying("poll", { Glibc.poll(&poll, 1, left) }) == 0 { return nil }
      } catch {
        throw .system(error)
      }
      if poll.revents != Int16(POLLOUT), let event = try receive() { return event }
      // A producer that goes on saying nothing of interest does not keep the caller.
      uneventful += 1
      if let end, Clock.now >= end, uneventful > 64 { return nil }
    }
  }

  /// Tells the producer that a frame is not read any more.
  ///
  /// Every frame needs this. A frame of a buffer that was closed meanwhile is passed over.
  ///
  /// - Parameters:
  ///   - frame: as it was received.
  ///   - fence: a sync_file that signals when the GPU has read the frame. It stays the caller's.
  ///     Only where ``Options/takesFences`` holds (`PINHOLE_FEATURE_SYNC_FILE`).
  /// - Throws: ``FramesError`` when the producer is gone.
  public func done(_ frame: ReceivedFrame, fence: CInt? = nil) throws(FramesError) {
    try done(frame, fence == nil ? .now : .syncFile, fence: fence)
  }

  func done(
    _ frame: ReceivedFrame, _ release: FrameDone.Release, fence: CInt? = nil
  ) throws(FramesError) {
    guard unanswered[frame.output]?.removeValue(forKey: frame.serial) != nil else { return }
    let done = FrameDone(output: frame.output, serial: frame.serial, release: release)
    try send(done.wire, fds: fence.map { [$0] } ?? [])
  }

  /// Tells the producer that nothing of a removed buffer is in use any more.
  public func closed(_ name: BufferName) throws(FramesError) {
    guard let buffer = removed.removeValue(forKey: name) else { return }
    buffer.close()
    for output in unanswered.keys {
      unanswered[output] = unanswered[output]?.filter { $0.value != name }
    }
    try send(BufferClosed(name).wire)
  }

  func send(_ message: some WireStruct, fds: [CInt] = []) throws(FramesError) {
    try outbox.send(message, fds: fds, to: socket.raw)
  }
}

extension FrameConsumer.Options {
  /// What these options say on the wire.
  var hello: ConsumerHello {
    var hello = ConsumerHello(name: name)
    hello.isCopyOnly = copyOnly
    hello.isExplicit = isExplicit
    if copyOnly { hello.features |= PINHOLE_FEATURE_COPY_ONLY }
    if takesFences { hello.features |= PINHOLE_FEATURE_SYNC_FILE }
    if takesTimelines { hello.features |= PINHOLE_FEATURE_TIMELINE }
    if takesPool, copyOnly { hello.features |= PINHOLE_FEATURE_POOL }
    if takesModifiers { hello.features |= PINHOLE_FEATURE_MODIFIERS }
    if strideAlignment > 0 || heightAlignment > 0 {
      hello.features |= PINHOLE_FEATURE_ALIGNMENT
      hello.strideAlignment = strideAlignment
      hello.heightAlignment = heightAlignment
    }
    return hello
  }
}
