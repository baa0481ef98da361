import FrameProtocol
import Glibc
import Linux
import Logging
import Pixels
import Testing

@testable import GStreamerBridge

/// `unixfdsrc` in front of `pinhole gst`: what it is told, and what becomes of the frames.
@Suite struct UnixFDReaderTests {
  private let loop: EventLoop
  private let producer: BridgeProducer
  private let server: UnixFDServer
  private let reader: Reader

  /// GStreamer's side.
  private final class Reader {
    private let socket: SharedFD
    private var bytes: [UInt8] = []
    private var fds: [SharedFD] = []

    /// A message; a picture's has a descriptor.
    enum Message: Equatable {
      case caps(String)
      case buffer(id: UInt64, size: UInt64, offset: UInt64)
      case end
    }

    init(_ path: String) throws { socket = SharedFD(try UnixSocket.connect(path, kind: .stream)) }

    /// The messages that have come.
    func messages() throws -> [Message] {
      while true {
        var chunk = [UInt8](repeating: 0, count: 4096)
        var new: [CInt] = []
        do {
          let count = try chunk.withUnsafeMutableBytes {
            try UnixSocket.receive(socket.raw, into: $0, fds: &new, dontWait: true).count
          }
          fds += new.map { SharedFD(OwnedFD(adopting: $0)) }
          bytes += chunk.prefix(count)
          if count == 0 { break }
        } catch let error as Errno where error.code == EAGAIN { break }
      }
      var all: [Message] = []
      while let message = try message() { all.append(message) }
      return all
    }

    private func number<Number: FixedWidthInteger & BitwiseCopyable>(_ offset: Int) -> Number {
      bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: Number.self) }
    }

    private func message() throws -> Message? {
      guard bytes.count >= 8 else { return nil }
      let (command, size): (UInt32, UInt32) = (number(0), number(4))
      guard bytes.count >= 8 + Int(size) else { return nil }
      defer { bytes.removeFirst(8 + Int(size)) }
      switch command {
      // One memfd, of which 16 bytes behind six words of 64 bits tell.
      case 0:
        try #require(size == 72)
        #expect(Array(bytes[56..<64]) == [0, 0, 0, 0, 0, 1, 0, 0])
        return .buffer(id: number(8), size: number(64), offset: number(72))
      case 2: return .caps(String(decoding: bytes[8..<(7 + Int(size))], as: UTF8.self))
      default:
        try #require(command == 3 && size == 0)
        return .end
      }
    }

    /// The oldest descriptor that was not looked at.
    func file() throws -> SharedFD {
      try #require(!fds.isEmpty)
      return fds.removeFirst()
    }

    func release(_ id: UInt64) throws {
      var words: [UInt32] = [1, 8]
      words += [UInt32(truncatingIfNeeded: id), UInt32(truncatingIfNeeded: id >> 32)]
      _ = try words.withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
    }
  }

  init() throws {
    loop = try EventLoop()
    producer = try BridgeProducer()
    let path = producer.path + ".gst"
    server = try UnixFDServer(
      on: path, frames: producer.path, output: 0, loop: loop,
      log: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    reader = try Reader(path)
    for _ in 0..<3 { try loop.turn(timeout: 0) }
    try producer.accept()
    try producer.output(16, 8)
  }

  private func turn() throws {
    for _ in 0..<5 { try loop.turn(timeout: 0) }
    try producer.listen()
  }

  private func caps(_ width: Int, _ height: Int) -> Reader.Message {
    .caps(
      "video/x-raw, format=(string)BGRx, width=(int)\(width), height=(int)\(height), "
        + "framerate=(fraction)0/1, interlace-mode=(string)progressive, "
        + "pixel-aspect-ratio=(fraction)1/1, colorimetry=(string)sRGB")
  }

  /// The pixels of a message's picture, whose rows follow each other.
  private func pixels(_ message: Reader.Message?) throws -> [UInt32] {
    guard case .buffer(_, let size, let offset)? = message else { return [] }
    let file = try reader.file()
    var pixels = [UInt32](repeating: 0, count: Int(size) / 4)
    let count = pixels.withUnsafeMutableBytes {
      pread(file.raw, $0.baseAddress, $0.count, off_t(offset))
    }
    return count == Int(size) ? pixels : []
  }

  /// What is in a buffer from there on, 16 pixels across and 8 down.
  private static func pattern(x left: UInt32, y top: UInt32) -> [UInt32] {
    var pixels: [UInt32] = []
    for y in top..<top + 8 { for x in left..<left + 16 { pixels.append(y << 8 | x) } }
    return pixels
  }

  /// Whole rows are the producer's own memory, and its frame is answered when the reader says so.
  @Test func aFrameIsLentUntilItIsReleased() throws {
    try producer.add(1, 16, 12) { $1 << 8 | $0 }
    // The rows in the middle.
    let crop = Rect(x: 0, y: 2, width: 16, height: 8)
    for _ in 0..<2 { try producer.frame(1, crop: crop) }
    try turn()
    let heard = try reader.messages()
    #expect(
      heard == [
        caps(16, 8), .buffer(id: 1, size: 512, offset: 128),
        .buffer(id: 2, size: 512, offset: 128),
      ])
    let wanted = Self.pattern(x: 0, y: 2)
    #expect(try pixels(heard.last) == wanted)
    #expect(producer.answered == [])
    try reader.release(2)
    try turn()
    #expect(producer.answered == [2])
    try reader.release(77)
    try reader.release(1)
    try turn()
    #expect(producer.answered == [2, 1])
  }

  /// Rows with gaps are copied, into four files that are used again.
  @Test func aPartIsCopiedAndItsMemoryComesBack() throws {
    try producer.add(1, 32, 12, stride: 160) { $1 << 8 | $0 }
    let crop = Rect(x: 5, y: 2, width: 16, height: 8)
    for _ in 0..<5 { try producer.frame(1, crop: crop) }
    try turn()
    let heard = try reader.messages()
    #expect(
      heard == [caps(16, 8)] + (1...4).map { .buffer(id: UInt64($0), size: 512, offset: 0) },
      "the fifth is left out")
    #expect(producer.answered == [1, 2, 3, 4, 5], "nothing of them is read any more")
    let wanted = Self.pattern(x: 5, y: 2)
    for message in heard.dropFirst() { #expect(try pixels(message) == wanted) }
    for _ in 0..<3 {
      try reader.release(3)
      try turn()
    }
    try producer.frame(1, crop: crop)
    try turn()
    let next = try reader.messages()
    #expect(next.count == 1, "one came back, once")
    #expect(try pixels(next.first) == wanted)
  }

  @Test func anotherSizeIsToldOf() throws {
    try producer.add(1, 16, 8) { $1 << 8 | $0 }
    try producer.frame(1, crop: Rect(width: 16, height: 8))
    try producer.output(16, 4)
    try producer.frame(1, crop: Rect(width: 16, height: 4))
    try turn()
    #expect(
      try reader.messages() == [
        caps(16, 8), .buffer(id: 1, size: 512, offset: 0), caps(16, 4),
        .buffer(id: 2, size: 256, offset: 0),
      ])
  }

  /// What other outputs show is not seen, and is answered at once.
  @Test func otherOutputsAreNotShown() throws {
    try producer.output(16, 8, output: 1)
    try producer.add(1, 16, 8) { $1 << 8 | $0 }
    try producer.frame(1, crop: Rect(width: 16, height: 8), output: 1)
    try turn()
    #expect(try reader.messages() == [])
    #expect(producer.answered == [1])
  }

  @Test func theEndIsToldOf() throws {
    try turn()
    server.stop()
    #expect(try reader.messages() == [.end])
  }
}
