import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Testing

@testable import PinholeFrames

/// A producer that sends what it likes to one consumer.
final class ConsumerBench {
  let producer: OwnedFD
  let consumer: FrameConsumer

  init(greets: Bool = true, options: FrameConsumer.Options = .init(name: "test")) throws {
    let pair = try UnixSocket.Pair(.seqpacket)
    var first: OwnedFD?
    var second: OwnedFD?
    pair.split {
      first = consume $0
      second = consume $1
    }
    guard let ours = first.take(), let theirs = second.take() else {
      throw Errno(EBADF, "socketpair")
    }
    producer = ours
    consumer = try FrameConsumer(socket: theirs, options: options)
    if greets {
      _ = try heard()
      try send(Self.hello())
      _ = try consumer.next(timeout: 0)
    }
  }

  /// A cursor's image, sealed as it has to be.
  static func image(_ name: String = "frames-test-cursor", size: Int = 4096) throws -> OwnedFD {
    try memory(name, size: size, seals: [.shrink, .write])
  }

  static func header<Body>(_ type: pinhole_message, _: Body.Type) -> pinhole_header {
    pinhole_header(type: type.rawValue, size: UInt32(MemoryLayout<Body>.size))
  }

  static func hello() -> pinhole_producer_hello {
    var hello = pinhole_producer_hello()
    hello.header = header(PINHOLE_PRODUCER_HELLO, pinhole_producer_hello.self)
    hello.magic = PINHOLE_MAGIC
    hello.version = 1
    hello.max_in_flight = 2
    hello.hold_deadline_us = 40_000
    hello.close_deadline_us = 30_000
    hello.max_outputs = 16
    WireText.write("fake", to: &hello.name)
    return hello
  }

  static func output() -> pinhole_output {
    var output = pinhole_output()
    output.header = header(PINHOLE_OUTPUT, pinhole_output.self)
    output.flags = PINHOLE_OUTPUT_ENABLED
    output.width = 16
    output.height = 8
    return output
  }

  static func buffer(_ generation: UInt32 = 1) -> pinhole_buffer_add {
    var add = pinhole_buffer_add()
    add.header = header(PINHOLE_BUFFER_ADD, pinhole_buffer_add.self)
    add.buffer = 3
    add.generation = generation
    add.width = 16
    add.height = 8
    add.fourcc = 0x3432_5258
    add.flags = PINHOLE_BUFFER_COPY
    add.size = 4096
    add.num_planes = 1
    add.num_fds = 1
    add.planes.0.stride = 64
    return add
  }

  static func frame(_ serial: UInt64 = 1) -> pinhole_frame {
    var frame = pinhole_frame()
    frame.header = header(PINHOLE_FRAME, pinhole_frame.self)
    frame.flags = PINHOLE_FRAME_FULL
    frame.serial = serial
    frame.buffer = 3
    frame.generation = 1
    frame.crop = pinhole_rect(x: 0, y: 0, width: 16, height: 8)
    frame.num_damage = 1
    frame.damage.0 = frame.crop
    return frame
  }

  static func remove(_ generation: UInt32 = 1) -> pinhole_buffer_remove {
    var remove = pinhole_buffer_remove()
    remove.header = header(PINHOLE_BUFFER_REMOVE, pinhole_buffer_remove.self)
    remove.buffer = 3
    remove.generation = generation
    remove.reason = PINHOLE_REMOVE_DISCARDED.rawValue
    return remove
  }

  static func cursor() -> pinhole_cursor {
    var cursor = pinhole_cursor()
    cursor.header = header(PINHOLE_CURSOR, pinhole_cursor.self)
    cursor.flags = PINHOLE_CURSOR_VISIBLE | PINHOLE_CURSOR_IMAGE
    cursor.width = 2
    cursor.height = 2
    cursor.fourcc = 0x3432_5241
    cursor.stride = 8
    cursor.size = 16
    return cursor
  }

  /// A memfd of one page whose bytes count up.
  static func memory(
    _ name: String = "frames-test", size: Int = 4096, seals: Seals = [.shrink]
  ) throws -> OwnedFD {
    let file = try MemFD.create(name, size: size)
    let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
    #expect(pwrite(file.raw, bytes, size, 0) == size)
    try MemFD.add(seals, to: file.raw)
    return file
  }

  func send<Body>(_ body: Body, fds: [CInt] = []) throws {
    _ = try withUnsafeBytes(of: body) {
      try UnixSocket.send(producer.raw, $0, fds: fds, dontWait: true)
    }
  }

  /// Sends the messages up to a frame, and takes their events.
  func showFrame() throws {
    try send(Self.output())
    let memory = try Self.memory()
    try send(Self.buffer(), fds: [memory.raw])
    try send(Self.frame())
    for _ in 0..<3 { _ = try #require(try consumer.next(timeout: 0)) }
  }

  /// What the consumer said, as hex; nil when it said nothing.
  func heard(descriptors: Int = 0) throws -> String? {
    var bytes = [UInt8](repeating: 0, count: 1024)
    var fds: [CInt] = []
    do {
      let got = try bytes.withUnsafeMutableBytes {
        try UnixSocket.receive(producer.raw, into: $0, fds: &fds, dontWait: true)
      }
      #expect(fds.count == descriptors)
      for fd in fds { close(fd) }
      return hex(bytes[..<got.count])
    } catch let error as Errno where error.code == EAGAIN {
      return nil
    }
  }

  /// The error of the next event.
  func failure() -> FramesError? {
    do throws(FramesError) {
      while try consumer.next(timeout: 0) != nil {}
      return nil
    } catch {
      return error
    }
  }
}

func hex(_ bytes: some Sequence<UInt8>) -> String {
  bytes.map { byte in
    let text = String(byte, radix: 16)
    return text.count == 1 ? "0" + text : text
  }.joined()
}
