import FrameProtocol
import Glibc
import Linux
import Logging
import PinholeFrames
import PinholeProtocol
import Pixels
import Testing

@testable import Bridge
@testable import GStreamerBridge

/// What bridges have in common, and the copies that GStreamer's readers get.
@Suite struct BridgeTests {
  /// The first message on a connection.
  private func greeting(_ connection: CInt) throws -> pinhole_consumer_hello {
    var hello = pinhole_consumer_hello()
    var fds: [CInt] = []
    let got = try withUnsafeMutableBytes(of: &hello) {
      try UnixSocket.receive(connection, into: $0, fds: &fds, dontWait: true)
    }
    try #require(got.count == MemoryLayout<pinhole_consumer_hello>.size && fds.isEmpty)
    return hello
  }

  @Test func aFeedDemandsCopiesAndComesBackToTheNextProducer() throws {
    let path = "/tmp/pinhole-feed-\(getpid())-\(Clock.now).sock"
    defer { unlink(path) }
    let listener = try UnixSocket.listen(path, kind: .seqpacket)
    let loop = try EventLoop()
    var losses = 0
    var handlers = FrameFeed.Handlers()
    handlers.lost = { losses += 1 }
    let feed = FrameFeed(
      path: path, name: "bridge", takesPool: true, loop: loop, log: Logger(label: "test"),
      handlers: handlers)
    for life in 1...2 {
      let deadline = Clock.now + 20_000_000_000
      while !feed.isConnected {
        try #require(Clock.now < deadline, "life \(life): it does not come")
        try loop.turn(timeout: 100)
      }
      let connection = try UnixSocket.accept(listener.raw)
      let hello = try greeting(connection.raw)
      #expect(hello.flags & PINHOLE_CONSUMER_COPY_ONLY != 0, "what goes on is never guest memory")
      #expect(hello.features & PINHOLE_FEATURE_POOL != 0)
      UnixSocket.shutDown(connection.raw)
      while losses < life {
        try #require(Clock.now < deadline, "life \(life): nobody tells that it is gone")
        try loop.turn(timeout: 100)
      }
      #expect(!feed.isConnected && feed.buffers.isEmpty)
    }
  }

  private final class Told {
    var outputs: [OutputState] = []
    var frames: [(ReceivedFrame, ReceivedBuffer)] = []
    var removed: [BufferName] = []
  }

  /// The next message on a connection; nil while there is none.
  private func message(_ connection: CInt) throws -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: 1024)
    var fds: [CInt] = []
    do {
      let got = try bytes.withUnsafeMutableBytes {
        try UnixSocket.receive(connection, into: $0, fds: &fds, dontWait: true)
      }
      return Array(bytes[..<got.count])
    } catch let error as Errno where error.code == EAGAIN {
      return nil
    }
  }

  private func send<Body>(_ body: Body, _ connection: CInt, fds: [CInt] = []) throws {
    _ = try withUnsafeBytes(of: body) {
      try UnixSocket.send(connection, $0, fds: fds, dontWait: true)
    }
  }

  /// A bridge may be started before its producer, and outlives it: frames of one that is gone are
  /// not answered to the next, whose numbers begin again.
  @Test func aFeedTellsTheLivesOfItsProducersApart() throws {
    let path = "/tmp/pinhole-lives-\(getpid())-\(Clock.now).sock"
    defer { unlink(path) }
    let loop = try EventLoop()
    let told = Told()
    var handlers = FrameFeed.Handlers()
    handlers.output = { told.outputs.append($0) }
    handlers.frame = { told.frames.append(($0, $1)) }
    handlers.removed = { told.removed.append($0) }
    let feed = FrameFeed(
      path: path, name: "bridge", takesPool: true, loop: loop, log: Logger(label: "test"),
      handlers: handlers)
    #expect(!feed.isConnected && !feed.hasPool)
    let listener = try UnixSocket.listen(path, kind: .seqpacket)
    func turn(until isSo: () -> Bool) throws {
      let deadline = Clock.now + 20_000_000_000
      while !isSo() {
        try #require(Clock.now < deadline, "it never happened")
        try loop.turn(timeout: 100)
      }
    }
    let memory = try ConsumerBench.memory()
    for life in 1...2 {
      try turn { feed.isConnected }
      let connection = try UnixSocket.accept(listener.raw)
      _ = try greeting(connection.raw)
      var hello = ConsumerBench.hello()
      hello.features = PINHOLE_FEATURE_COPY_ONLY | (life == 2 ? PINHOLE_FEATURE_POOL : 0)
      hello.max_in_flight = UInt32(life)
      try send(hello, connection.raw)
      try send(ConsumerBench.output(), connection.raw)
      try send(ConsumerBench.buffer(), connection.raw, fds: [memory.raw])
      try send(ConsumerBench.frame(), connection.raw)
      try turn { told.frames.count == life }
      #expect(told.outputs.count == life && feed.buffers.count == 1)
      #expect(feed.hasPool == (life == 2) && feed.maxInFlight == life)
      if life == 2 {
        feed.done(told.frames[0].0, of: told.frames[0].1)
        #expect(try message(connection.raw) == nil, "that was another producer's frame")
        feed.done(told.frames[1].0, of: told.frames[1].1)
        #expect(
          try message(connection.raw).map(hex)
            == "02000000" + "20000000" + "00000000" + "00000000" + "0100000000000000"
            + "0000000000000000")
        try send(ConsumerBench.remove(), connection.raw)
        try turn { !told.removed.isEmpty }
        #expect(told.removed == [BufferName(number: 3, generation: 1)])
      }
      UnixSocket.shutDown(connection.raw)
      try turn { !feed.isConnected }
    }
  }

  @Test(arguments: [
    (FourCC.xrgb8888, OpaqueOrder.bgrx), (.argb8888, .bgrx), (.xbgr8888, .rgbx),
    (.abgr8888, .rgbx), (.bgrx8888, .xrgb), (.bgra8888, .xrgb), (.rgbx8888, .xbgr),
    (.rgba8888, .xbgr),
  ])
  func ordersOfBytes(_ fourcc: FourCC, _ order: OpaqueOrder) {
    #expect(OpaqueOrder(fourcc) == order)
  }

  @Test func otherFormatsHaveNoOrder() {
    #expect(OpaqueOrder(FourCC("N", "V", "1", "2")) == nil)
  }

  @Test func rowsArePackedInFourCopiesAtMost() throws {
    let bench = try ConsumerBench()
    try bench.showFrame()
    let buffer = try #require(bench.consumer.buffers[BufferName(number: 3, generation: 1)])
    // The buffer's bytes count up, 64 a row: two pixels each of three rows, from the second on.
    let picture = UnixFDWire.Picture(order: .bgrx, width: 2, height: 3, stride: 64, offset: 72)
    let rows = PackedRows()
    var copies: [SharedFD] = []
    for number in 1...4 as ClosedRange<UInt64> {
      copies.append(try #require(try rows.copy(picture, of: buffer, number: number)))
    }
    let first = try #require(copies.first)
    let mapping = try Mapping(fd: first.raw, offset: 0, count: 24, writable: false)
    #expect(Array(mapping.bytes) == Array(72..<80) + Array(136..<144) + Array(200..<208))
    #expect(mmap(nil, 24, PROT_READ | PROT_WRITE, MAP_SHARED, first.raw, 0) == MAP_FAILED)
    #expect(try rows.copy(picture, of: buffer, number: 5) == nil, "the reader has all of them")
    rows.release(2)
    let again = try #require(try rows.copy(picture, of: buffer, number: 6))
    #expect(again === copies[1], "the same memory is used again")
  }
}
