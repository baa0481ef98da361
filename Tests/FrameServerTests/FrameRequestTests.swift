import Buffers
import Fences
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Scene
import Testing

@testable import FrameServer

/// A consumer that sends what it likes.
enum RawConsumer {
  static func hello() -> pinhole_consumer_hello {
    var hello = pinhole_consumer_hello()
    hello.header = pinhole_header(type: PINHOLE_CONSUMER_HELLO.rawValue, size: 72)
    hello.magic = PINHOLE_MAGIC
    hello.min_version = 1
    hello.max_version = 1
    WireText.write("raw", to: &hello.name)
    return hello
  }

  static func done(_ serial: UInt64, output: UInt32 = 0) -> pinhole_frame_done {
    var done = pinhole_frame_done()
    done.header = pinhole_header(type: PINHOLE_FRAME_DONE.rawValue, size: 32)
    done.output = output
    done.serial = serial
    return done
  }

  static func closed(_ buffer: UInt32, _ generation: UInt32) -> pinhole_buffer_closed {
    pinhole_buffer_closed(
      header: pinhole_header(type: PINHOLE_BUFFER_CLOSED.rawValue, size: 16), buffer: buffer,
      generation: generation)
  }

  static func timelineAdd(output: UInt32 = 0) -> pinhole_timeline_add {
    pinhole_timeline_add(
      header: pinhole_header(type: PINHOLE_TIMELINE_ADD.rawValue, size: 24), output: output,
      reserved: 0, syncobj_index: 0, node_index: 1)
  }

  static func timelineRemove(output: UInt32 = 0) -> pinhole_timeline_remove {
    pinhole_timeline_remove(
      header: pinhole_header(type: PINHOLE_TIMELINE_REMOVE.rawValue, size: 16), output: output,
      reserved: 0)
  }

  static func send<Body>(_ fd: CInt, _ body: Body, fds: [CInt] = []) throws {
    _ = try withUnsafeBytes(of: body) { try UnixSocket.send(fd, $0, fds: fds, dontWait: true) }
  }

  /// One packet; nil at the end. Descriptors are closed.
  static func receive(_ fd: CInt) throws -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: 1024)
    var fds: [CInt] = []
    for _ in 0..<2 {
      do {
        let got = try bytes.withUnsafeMutableBytes {
          try UnixSocket.receive(fd, into: $0, fds: &fds, dontWait: true)
        }
        for fd in fds { close(fd) }
        return got.count == 0 ? nil : Array(bytes[..<got.count])
      } catch let error as Errno where error.code == ECONNRESET {
        continue
      }
    }
    return nil
  }

  /// Reads up to the ERROR that ends the connection.
  static func error(_ fd: CInt) throws -> pinhole_error {
    var last: [UInt8] = []
    while let packet = try receive(fd) { last = packet }
    try #require(last.count == 128)
    return last.withUnsafeBytes { $0.loadUnaligned(as: pinhole_error.self) }
  }
}

@Suite struct FrameRequestTests {
  struct Case: CustomTestStringConvertible {
    let testDescription: String
    let code: pinhole_error_code
    let field: UInt32
    let bytes: [UInt8]
    var fds = 0

    init<Body>(
      _ name: String, _ code: pinhole_error_code, field: UInt32, _ body: Body, fds: Int = 0
    ) {
      testDescription = name
      self.code = code
      self.field = field
      bytes = withUnsafeBytes(of: body) { Array($0) }
      self.fds = fds
    }
  }

  static func hello(_ change: (inout pinhole_consumer_hello) -> Void) -> pinhole_consumer_hello {
    var hello = RawConsumer.hello()
    change(&hello)
    return hello
  }

  static func done(_ change: (inout pinhole_frame_done) -> Void) -> pinhole_frame_done {
    var done = RawConsumer.done(1)
    change(&done)
    return done
  }

  static let none = PINHOLE_NO_FIELD
  static let first: [Case] = [
    Case("type", PINHOLE_ERROR_MALFORMED, field: 0, hello { $0.header.type = 77 }),
    Case("a producer's type", PINHOLE_ERROR_MALFORMED, field: 0, hello { $0.header.type = 0x101 }),
    Case("size", PINHOLE_ERROR_MALFORMED, field: 4, hello { $0.header.size = 64 }),
    Case("half a header", PINHOLE_ERROR_MALFORMED, field: none, UInt32(1)),
    Case(
      "a short packet", PINHOLE_ERROR_MALFORMED, field: 4,
      pinhole_header(type: PINHOLE_CONSUMER_HELLO.rawValue, size: 8)),
    Case("magic", PINHOLE_ERROR_MALFORMED, field: 8, hello { $0.magic = 1 }),
    Case("min_version", PINHOLE_ERROR_MALFORMED, field: 12, hello { $0.min_version = 0 }),
    Case(
      "max_version", PINHOLE_ERROR_MALFORMED, field: 16,
      hello {
        $0.min_version = 2
      }),
    Case(
      "no common version", PINHOLE_ERROR_VERSION, field: 12,
      hello {
        $0.min_version = 2
        $0.max_version = 9
      }),
    Case("flags", PINHOLE_ERROR_MALFORMED, field: 20, hello { $0.flags = 4 }),
    Case("copies only", PINHOLE_ERROR_UNSUPPORTED, field: 20, hello { $0.flags = 1 }),
    Case("stride_align", PINHOLE_ERROR_MALFORMED, field: 32, hello { $0.stride_align = 3 }),
    Case("stride_align size", PINHOLE_ERROR_MALFORMED, field: 32, hello { $0.stride_align = 8192 }),
    Case("height_align", PINHOLE_ERROR_MALFORMED, field: 36, hello { $0.height_align = 6 }),
    Case(
      "name without end", PINHOLE_ERROR_MALFORMED, field: 40,
      hello {
        withUnsafeMutableBytes(of: &$0.name) {
          $0.copyBytes(from: [UInt8](repeating: 65, count: 32))
        }
      }),
    Case("name not UTF-8", PINHOLE_ERROR_MALFORMED, field: 40, hello { $0.name.0 = -1 }),
    Case("descriptors", PINHOLE_ERROR_MALFORMED, field: none, hello { _ in }, fds: 1),
    Case("many descriptors", PINHOLE_ERROR_MALFORMED, field: none, hello { _ in }, fds: 20),
    Case("done before hello", PINHOLE_ERROR_UNEXPECTED, field: 0, RawConsumer.done(1)),
    Case("closed before hello", PINHOLE_ERROR_UNEXPECTED, field: 0, RawConsumer.closed(1, 1)),
    Case(
      "a timeline before hello", PINHOLE_ERROR_UNEXPECTED, field: 0, RawConsumer.timelineAdd(),
      fds: 2),
  ]

  static let later: [Case] = [
    Case("hello twice", PINHOLE_ERROR_UNEXPECTED, field: 0, RawConsumer.hello()),
    Case("output", PINHOLE_ERROR_MALFORMED, field: 8, done { $0.output = 16 }),
    Case("another output", PINHOLE_ERROR_UNEXPECTED, field: 16, done { $0.output = 1 }),
    Case("serial", PINHOLE_ERROR_UNEXPECTED, field: 16, done { $0.serial = 2 }),
    Case("release_kind", PINHOLE_ERROR_MALFORMED, field: 12, done { $0.release_kind = 2 }),
    Case(
      "release without a fence", PINHOLE_ERROR_MALFORMED, field: 12, done { $0.release_kind = 1 }),
    Case(
      "a fence not agreed on", PINHOLE_ERROR_MALFORMED, field: 12, done { $0.release_kind = 1 },
      fds: 1),
    Case("release_point", PINHOLE_ERROR_MALFORMED, field: 24, done { $0.release_point = 1 }),
    Case("done with a descriptor", PINHOLE_ERROR_MALFORMED, field: none, done { _ in }, fds: 1),
    Case("not removed", PINHOLE_ERROR_UNEXPECTED, field: 8, RawConsumer.closed(1, 1)),
    Case("not known", PINHOLE_ERROR_UNEXPECTED, field: 8, RawConsumer.closed(7, 1)),
    Case(
      "a timeline not agreed on", PINHOLE_ERROR_MALFORMED, field: 0, RawConsumer.timelineAdd(),
      fds: 2),
    Case(
      "no timeline not agreed on", PINHOLE_ERROR_MALFORMED, field: 0,
      RawConsumer.timelineRemove()),
  ]

  static func timeline(_ change: (inout pinhole_timeline_add) -> Void) -> pinhole_timeline_add {
    var add = RawConsumer.timelineAdd()
    change(&add)
    return add
  }

  /// Where TIMELINE holds. Descriptors are /dev/null.
  static let timelines: [Case] = [
    Case("size", PINHOLE_ERROR_MALFORMED, field: 4, done { $0.header.type = 4 }, fds: 2),
    Case("output", PINHOLE_ERROR_MALFORMED, field: 8, timeline { $0.output = 16 }, fds: 2),
    Case("reserved", PINHOLE_ERROR_MALFORMED, field: 12, timeline { $0.reserved = 1 }, fds: 2),
    Case(
      "syncobj_index", PINHOLE_ERROR_MALFORMED, field: 16, timeline { $0.syncobj_index = 2 },
      fds: 2),
    Case("node_index", PINHOLE_ERROR_MALFORMED, field: 20, timeline { $0.node_index = 2 }, fds: 2),
    Case("twice one", PINHOLE_ERROR_MALFORMED, field: 20, timeline { $0.node_index = 0 }, fds: 2),
    Case("one descriptor", PINHOLE_ERROR_MALFORMED, field: none, timeline { _ in }, fds: 1),
    Case("three descriptors", PINHOLE_ERROR_MALFORMED, field: none, timeline { _ in }, fds: 3),
    Case("no DRM node", PINHOLE_ERROR_MALFORMED, field: 20, timeline { _ in }, fds: 2),
    Case("nothing to remove", PINHOLE_ERROR_UNEXPECTED, field: 8, RawConsumer.timelineRemove()),
    Case(
      "remove output", PINHOLE_ERROR_MALFORMED, field: 8, RawConsumer.timelineRemove(output: 16)),
    Case(
      "remove with a descriptor", PINHOLE_ERROR_MALFORMED, field: none,
      RawConsumer.timelineRemove(), fds: 1),
    Case(
      "a point without a timeline", PINHOLE_ERROR_UNEXPECTED, field: 12,
      done {
        $0.release_kind = 2
        $0.release_point = 1
      }),
    Case(
      "a point with a descriptor", PINHOLE_ERROR_MALFORMED, field: none,
      done {
        $0.release_kind = 2
        $0.release_point = 1
      }, fds: 1),
    Case(
      "a point but no kind", PINHOLE_ERROR_MALFORMED, field: 24, done { $0.release_point = 1 }),
    Case("a sync_file", PINHOLE_ERROR_MALFORMED, field: 12, done { $0.release_kind = 1 }, fds: 1),
    Case("another kind", PINHOLE_ERROR_MALFORMED, field: 12, done { $0.release_kind = 3 }),
  ]

  private func expect(_ wrong: Case, _ bench: FrameBench, _ socket: CInt) throws {
    let null = try OwnedFD.open("/dev/null", O_RDONLY)
    _ = try wrong.bytes.withUnsafeBytes {
      try UnixSocket.send(
        socket, $0, fds: [CInt](repeating: null.raw, count: wrong.fds), dontWait: true)
    }
    try bench.turn()
    let error = try RawConsumer.error(socket)
    #expect(error.code == wrong.code.rawValue, "\(WireText.read(error.text) ?? "")")
    #expect(error.field_offset == wrong.field)
    #expect(WireText.read(error.text)?.isEmpty == false)
    #expect(bench.server.clients.isEmpty)
  }

  @Test(arguments: first) func aBadFirstMessage(_ wrong: Case) throws {
    let bench = try FrameBench()
    let socket = try bench.socket()
    try expect(wrong, bench, socket.raw)
  }

  @Test(arguments: later) func aBadLaterMessage(_ wrong: Case) throws {
    try expect(wrong, after: RawConsumer.hello())
  }

  @Test(arguments: timelines) func aBadMessageAboutTimelines(_ wrong: Case) throws {
    try expect(wrong, after: Self.hello { $0.features = PINHOLE_FEATURE_TIMELINE })
  }

  private func expect(_ wrong: Case, after hello: pinhole_consumer_hello) throws {
    let bench = try FrameBench()
    bench.enable()
    let socket = try bench.socket()
    try RawConsumer.send(socket.raw, hello)
    try bench.turn()
    let buffer = try FakeBuffer(1)
    try bench.show(buffer)
    #expect(buffer.offered.lock.readers == 1)
    try expect(wrong, bench, socket.raw)
    #expect(buffer.offered.lock.readers == 0)
    #expect(openCount(buffer.label) == 1)
  }

  @Test func untrustedConsumersBringNothing() throws {
    let wish = PINHOLE_FEATURE_TIMELINE | PINHOLE_FEATURE_SYNC_FILE | PINHOLE_FEATURE_COPY_ONLY
    let bench = try FrameBench()
    let socket = try bench.socket(copiesOnly: true)
    try RawConsumer.send(socket.raw, Self.hello { $0.features = wish })
    try bench.turn()
    let answer = try #require(try RawConsumer.receive(socket.raw))
    let features = answer.withUnsafeBytes {
      $0.loadUnaligned(fromByteOffset: 16, as: UInt64.self)
    }
    #expect(features == PINHOLE_FEATURE_COPY_ONLY)
    let file = try MemFD.create("frames-test-gift", size: 1)
    try RawConsumer.send(socket.raw, RawConsumer.timelineAdd(), fds: [file.raw, file.raw])
    try bench.turn()
    let error = try RawConsumer.error(socket.raw)
    #expect(error.code == PINHOLE_ERROR_MALFORMED.rawValue && error.field_offset == 0)
    #expect(openCount("frames-test-gift") == 1)
  }

  @Test func doneTwiceIsAnError() throws {
    let bench = try FrameBench()
    bench.enable()
    let socket = try bench.socket()
    try RawConsumer.send(socket.raw, RawConsumer.hello())
    try bench.turn()
    try bench.show(try FakeBuffer(1))
    try RawConsumer.send(socket.raw, RawConsumer.done(1))
    try bench.turn()
    #expect(bench.server.clients.count == 1)
    try RawConsumer.send(socket.raw, RawConsumer.done(1))
    try bench.turn()
    #expect(try RawConsumer.error(socket.raw).field_offset == 16)
  }

  @Test func optionalMessagesAreIgnoredWithTheirDescriptors() throws {
    let bench = try FrameBench()
    let socket = try bench.socket()
    try RawConsumer.send(socket.raw, RawConsumer.hello())
    let file = try MemFD.create("frames-test-optional", size: 1)
    for _ in 0..<3 {
      try RawConsumer.send(
        socket.raw, pinhole_header(type: PINHOLE_OPTIONAL | 9, size: 8), fds: [file.raw, file.raw])
      try bench.turn()
    }
    #expect(bench.server.clients.count == 1)
    #expect(openCount("frames-test-optional") == 1)
  }
}
