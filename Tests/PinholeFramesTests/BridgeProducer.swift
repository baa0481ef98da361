import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

/// A producer to which bridges connect, and which shows what a test likes.
final class BridgeProducer {
  /// Where bridges connect.
  let path: String
  /// Serials of the frames that were answered, in the order of their answers.
  private(set) var answered: [UInt64] = []
  /// The buffers that were closed.
  private(set) var closed: [UInt32] = []
  private let listener: OwnedFD
  private var connection: SharedFD?
  private var features: UInt64?
  private var serial: UInt64 = 0

  init() throws {
    path = "/tmp/pinhole-bridged-\(getpid())-\(Clock.now).sock"
    listener = try UnixSocket.listen(path, kind: .seqpacket)
  }

  deinit { unlink(path) }

  /// Takes the bridge that has connected, and greets it.
  func accept() throws {
    connection = SharedFD(try UnixSocket.accept(listener.raw))
    features = nil
    try listen()
    guard let features else { throw Errno(EPROTO, "recvmsg") }
    try send(
      Producer(
        features: features, maxInFlight: 8, holdDeadline: 40_000, closeDeadline: 40_000,
        name: "fake"
      ).wire)
  }

  /// Whether a bridge has connected that was not accepted.
  var hasCaller: Bool {
    var poll = pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0)
    return Glibc.poll(&poll, 1, 0) == 1
  }

  /// Ends the connection.
  func leave() { connection = nil }

  /// Takes what the bridge has said.
  func listen() throws {
    while let connection {
      var bytes = [UInt8](repeating: 0, count: Int(PINHOLE_MAX_MESSAGE))
      var fds: [CInt] = []
      do {
        let count = try bytes.withUnsafeMutableBytes {
          try UnixSocket.receive(connection.raw, into: $0, fds: &fds, dontWait: true).count
        }
        for fd in fds { close(fd) }
        let message = try bytes[..<count].withUnsafeBytes {
          try ConsumerMessage($0, descriptors: fds.count, features: features)
        }
        switch message {
        case .hello(let hello): features = hello.features & PINHOLE_FEATURE_COPY_ONLY
        case .frameDone(let done): answered.append(done.serial)
        case .bufferClosed(let buffer): closed.append(buffer.name.number)
        default: throw Errno(EPROTO, "recvmsg")
        }
      } catch let error as Errno where error.code == EAGAIN { return }
    }
  }

  private func send<Body: BitwiseCopyable>(_ body: Body, _ file: SharedFD? = nil) throws {
    guard let connection else { throw Errno(ENOTCONN, "sendmsg") }
    _ = try withUnsafeBytes(of: body) {
      try UnixSocket.send(connection.raw, $0, fds: file.map { [$0.raw] } ?? [], dontWait: true)
    }
  }

  /// An output has a size.
  func output(_ width: UInt32, _ height: UInt32, output: UInt32 = 0) throws {
    try send(OutputState(output: output, size: (width, height)).wire)
  }

  /// Adds a copy with pixels 0xRRGGBB.
  ///
  /// - Parameter stride: bytes from one row to the next; as few as it takes if nil.
  /// - Returns: its memory.
  @discardableResult
  func add(
    _ number: UInt32, _ width: UInt32, _ height: UInt32, stride: UInt32? = nil,
    _ colour: (UInt32, UInt32) -> UInt32
  ) throws -> SharedFD {
    let layout = PixelLayout(
      width: width, height: height, stride: stride ?? width * 4, fourcc: .xrgb8888)
    let file = SharedFD(
      try MemFD.create("pinhole-bridged", size: Int(layout.size), seals: [.shrink]))
    for y in 0..<height {
      let row = (0..<width).map { colour($0, y) }
      let count = row.withUnsafeBytes {
        pwrite(file.raw, $0.baseAddress, $0.count, off_t(layout.stride * y))
      }
      guard count == row.count * 4 else { throw Errno(errno, "pwrite") }
    }
    try send(
      BufferAdd(
        BufferName(number: number, generation: 1), layout: ImageLayout(layout), memory: .copy,
        size: layout.size
      ).wire, file)
    return file
  }

  /// Shows a part of a buffer; the frame's serial.
  @discardableResult
  func frame(
    _ buffer: UInt32, crop: Rect, damage: [Rect]? = nil, output: UInt32 = 0
  ) throws -> UInt64 {
    serial += 1
    try send(
      FrameMessage(
        output: output, serial: serial, buffer: BufferName(number: buffer, generation: 1),
        crop: crop, damage: damage, timestamp: Clock.now
      ).wire)
    return serial
  }

  /// Takes a buffer back.
  func remove(_ buffer: UInt32, _ reason: RemovalReason) throws {
    try send(BufferRemove(BufferName(number: buffer, generation: 1), reason).wire)
  }

  /// Places a cursor, with an image or as it was.
  func cursor(_ message: CursorMessage, _ image: [UInt8]? = nil) throws {
    guard let image else { return try send(message.wire) }
    let file = SharedFD(try MemFD.create("pinhole-bridged-cursor", size: image.count))
    guard pwrite(file.raw, image, image.count, 0) == image.count else {
      throw Errno(errno, "pwrite")
    }
    try MemFD.add([.shrink, .grow], to: file.raw)
    try send(message.wire, file)
  }
}
