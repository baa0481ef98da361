import FrameWire
import Glibc
import Linux
import PinholeProtocol

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
    /// Closes a removed buffer before ``Event/bufferRemoved(_:reason:)`` is returned.
    ///
    /// Leave it on unless you import descriptors elsewhere; then call
    /// ``FrameConsumer/closed(_:)`` when the import is gone.
    public var closesRemovedBuffers: Bool

    /// Asks for whatever the producer offers.
    public init(
      name: String = "consumer", copyOnly: Bool = false, takesFences: Bool = false,
      takesTimelines: Bool = false, isExplicit: Bool = false, strideAlignment: UInt32 = 0,
      heightAlignment: UInt32 = 0, closesRemovedBuffers: Bool = true
    ) {
      self.name = name
      self.copyOnly = copyOnly
      self.takesFences = takesFences
      self.takesTimelines = takesTimelines
      self.isExplicit = isExplicit
      self.strideAlignment = strideAlignment
      self.heightAlignment = heightAlignment
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
    /// There is something new to see; answer with ``FrameConsumer/done(_:)``.
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
  var serials: [UInt32: UInt64] = [:]
  /// The frames of each output that were not answered, with their buffers.
  var unanswered: [UInt32: [UInt64: BufferName]] = [:]
  let socket: SharedFD
  let options: Options
  let scratch: UnsafeMutableRawBufferPointer

  /// Connects to a producer's socket and introduces itself.
  ///
  /// The answer comes as the first event, ``Event/connected(_:)``.
  ///
  /// - Throws: ``FramesError/cannotConnect(path:_:)``.
  public convenience init(path: String, options: Options = Options()) throws(FramesError) {
    let socket: OwnedFD
    do throws(Errno) {
      socket = try UnixSocket.connect(path, kind: .seqpacket)
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
    var hello = pinhole_consumer_hello()
    hello.magic = PINHOLE_MAGIC
    hello.min_version = PINHOLE_VERSION
    hello.max_version = PINHOLE_VERSION
    if options.copyOnly {
      hello.flags = PINHOLE_CONSUMER_COPY_ONLY
      hello.features |= PINHOLE_FEATURE_COPY_ONLY
    }
    if options.isExplicit { hello.flags |= PINHOLE_CONSUMER_EXPLICIT }
    if options.takesFences { hello.features |= PINHOLE_FEATURE_SYNC_FILE }
    if options.takesTimelines { hello.features |= PINHOLE_FEATURE_TIMELINE }
    if options.strideAlignment > 0 || options.heightAlignment > 0 {
      hello.features |= PINHOLE_FEATURE_ALIGNMENT
      hello.stride_align = options.strideAlignment
      hello.height_align = options.heightAlignment
    }
    WireText.write(options.name, to: &hello.name)
    hello.header = Self.header(PINHOLE_CONSUMER_HELLO, pinhole_consumer_hello.self)
    try send(hello)
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
    while true {
      do throws(Errno) {
        var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
        if try retrying("poll", { Glibc.poll(&poll, 1, timeout) }) == 0 { return nil }
      } catch {
        throw .system(error)
      }
      if let event = try receive() { return event }
    }
  }

  /// Tells the producer that a frame is not read any more.
  ///
  /// Every frame needs this. A frame of a buffer that was closed meanwhile is passed over.
  ///
  /// - Parameter fence: a sync_file that signals when the GPU has read the frame. It stays the
  ///   caller's. Only where ``Options/takesFences`` holds (`PINHOLE_FEATURE_SYNC_FILE`).
  public func done(_ frame: ReceivedFrame, fence: CInt? = nil) throws(FramesError) {
    try done(frame, fence == nil ? PINHOLE_FENCE_NONE : PINHOLE_FENCE_SYNC_FILE, fence: fence)
  }

  func done(
    _ frame: ReceivedFrame, _ release: pinhole_fence, point: UInt64 = 0, fence: CInt? = nil
  ) throws(FramesError) {
    guard unanswered[frame.output]?.removeValue(forKey: frame.serial) != nil else { return }
    var message = pinhole_frame_done()
    message.header = Self.header(PINHOLE_FRAME_DONE, pinhole_frame_done.self)
    message.output = frame.output
    message.serial = frame.serial
    message.release_kind = release.rawValue
    message.release_point = point
    try send(message, fds: fence.map { [$0] } ?? [])
  }

  /// Tells the producer that nothing of a removed buffer is in use any more.
  public func closed(_ name: BufferName) throws(FramesError) {
    guard let buffer = removed.removeValue(forKey: name) else { return }
    buffer.close()
    for output in unanswered.keys {
      unanswered[output] = unanswered[output]?.filter { $0.value != name }
    }
    var message = pinhole_buffer_closed()
    message.header = Self.header(PINHOLE_BUFFER_CLOSED, pinhole_buffer_closed.self)
    message.buffer = name.number
    message.generation = name.generation
    try send(message)
  }

  static func header<Body>(_ type: pinhole_message, _: Body.Type) -> pinhole_header {
    pinhole_header(type: type.rawValue, size: UInt32(MemoryLayout<Body>.size))
  }

  func send<Body: BitwiseCopyable>(
    _ body: Body, fds: [CInt] = []
  ) throws(FramesError) {
    do throws(Errno) {
      _ = try withUnsafeBytes(of: body) { bytes throws(Errno) in
        try UnixSocket.send(socket.raw, bytes, fds: fds)
      }
    } catch {
      // The producer may have said why before it closed: the next read tells.
      if error.code == EPIPE || error.code == ECONNRESET { return }
      throw .system(error)
    }
  }
}
