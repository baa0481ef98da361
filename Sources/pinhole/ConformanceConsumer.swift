import FakeGuest
import FrameWire
import Glibc
import Linux
import PinholeProtocol

/// Plays a producer for one consumer.
struct ConsumerChecks {
  let path: String
  let command: [String]

  func run(_ report: inout ConformanceReport) throws {
    let listener: SharedFD
    do throws(Errno) {
      listener = SharedFD(try UnixSocket.listen(path, kind: .seqpacket))
    } catch {
      throw Failure("conformance: cannot listen on \(path): \(error.message)")
    }
    defer { unlink(path) }
    let child: ChildProcess?
    do throws(GuestError) {
      child = command.isEmpty ? nil : try ChildProcess(command)
    } catch { throw Failure("conformance: \(error)") }
    var poll = pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0)
    var socket: ConformanceSocket?
    report.check("it connects") {
      guard try retrying("poll", { Glibc.poll(&poll, 1, 20_000) }) > 0 else {
        throw ConformanceResult.wrong("nobody connected in 20 s")
      }
      let connected = try UnixSocket.accept(listener.raw)
      try UnixSocket.setNonblocking(connected.raw, false)
      socket = ConformanceSocket(connected)
    }
    guard let socket else { return }
    ConsumerConversation(socket: socket, child: child).run(&report)
  }
}

/// The producer's part.
private final class ConsumerConversation {
  private static let width: UInt32 = 64
  private static let height: UInt32 = 32
  private let socket: ConformanceSocket
  private let child: ChildProcess?
  private var serial: UInt64 = 0
  private var features: UInt64 = 0
  private var timelines = ConsumerTimelines()

  init(socket: ConformanceSocket, child: ChildProcess?) {
    self.socket = socket
    self.child = child
  }

  func run(_ report: inout ConformanceReport) {
    guard report.check("its first message is a sound CONSUMER_HELLO", hello) else { return }
    report.check("a frame is answered with FRAME_DONE") {
      try greet()
      try output(enabled: true)
      try add(1)
      try answered([try frame(1)])
    }
    report.check("frames in flight are all answered") {
      try answered([try frame(1), try frame(1, flags: PINHOLE_FRAME_SKIPPED)])
    }
    report.check("unknown optional messages are ignored with their descriptors") {
      let null = try OwnedFD.open("/dev/null", O_RDONLY)
      try socket.send(pinhole_header(type: PINHOLE_OPTIONAL | 0x55, size: 8), fds: [null.raw])
      try answered([try frame(1)])
    }
    report.check("a cursor needs no answer") {
      try cursor()
      try answered([try frame(1)])
    }
    report.check("several damage rectangles are taken") {
      try answered([try frame(1, rectangles: Int(PINHOLE_MAX_DAMAGE))])
    }
    report.check("a removed buffer is closed, and the next generation is taken") {
      try remove(1, PINHOLE_REMOVE_DISCARDED.rawValue)
      try add(2)
      try answered([try frame(2)])
    }
    report.check("nothing of a closed buffer is kept") { try letGo(of: 1) }
    report.check("unknown reasons of removal are taken") {
      try remove(2, 99)
      try add(3)
      try answered([try frame(3)])
    }
    report.check("an output may go and come again") {
      try output(enabled: false)
      try output(enabled: true)
      try answered([try frame(3)])
    }
    report.check("it says nothing unasked") {
      if try socket.hasNews(milliseconds: 200),
        let packet = try socket.receive(waitingFor: "a message")
      {
        throw ConformanceResult.wrong("\(packet.name) came")
      }
    }
    report.check("it leaves when the producer ends", leave)
  }

  private func hello() throws {
    guard let packet = try socket.receive(waitingFor: "CONSUMER_HELLO") else {
      throw ConformanceResult.wrong("it left at once")
    }
    guard packet.type == PINHOLE_CONSUMER_HELLO.rawValue else {
      throw ConformanceResult.wrong("\(packet.name) came first")
    }
    let hello = try packet.body(pinhole_consumer_hello.self)
    let power = { (n: UInt32) in n <= 4096 && n & (n &- 1) == 0 }
    let isCopyOnly = hello.flags & PINHOLE_CONSUMER_COPY_ONLY != 0
    let rules: [(Bool, String)] = [
      (packet.descriptors.isEmpty, "descriptors came with it"),
      (hello.magic == PINHOLE_MAGIC, "the magic is wrong"),
      (hello.min_version >= 1 && hello.min_version <= hello.max_version, "versions in disorder"),
      (hello.min_version <= PINHOLE_VERSION, "it does not speak version 1"),
      (
        hello.flags & ~(PINHOLE_CONSUMER_COPY_ONLY | PINHOLE_CONSUMER_EXPLICIT) == 0,
        "unknown flags"
      ),
      (
        !isCopyOnly || hello.features & PINHOLE_FEATURE_COPY_ONLY != 0,
        "a flag without its feature"
      ),
      (power(hello.stride_align) && power(hello.height_align), "an alignment is no power of two"),
      (WireText.read(hello.name) != nil, "the name is not UTF-8 with a NUL"),
    ]
    for (holds, text) in rules where !holds { throw ConformanceResult.wrong(text) }
    var known = PINHOLE_FEATURE_COPY_ONLY
    if !isCopyOnly { known |= PINHOLE_FEATURE_TIMELINE }
    features = hello.features & known
    timelines.areAgreedOn = features & PINHOLE_FEATURE_TIMELINE != 0
  }

  private func greet() throws {
    var hello = pinhole_producer_hello()
    hello.header = ConformanceSocket.header(PINHOLE_PRODUCER_HELLO, pinhole_producer_hello.self)
    hello.magic = PINHOLE_MAGIC
    hello.version = PINHOLE_VERSION
    hello.features = features
    hello.max_in_flight = 2
    hello.hold_deadline_us = 40_000
    hello.close_deadline_us = 40_000
    hello.max_outputs = PINHOLE_MAX_OUTPUTS
    WireText.write("conformance", to: &hello.name)
    try socket.send(hello)
  }

  private func output(enabled: Bool) throws {
    var output = pinhole_output()
    output.header = ConformanceSocket.header(PINHOLE_OUTPUT, pinhole_output.self)
    if enabled {
      output.flags = PINHOLE_OUTPUT_ENABLED
      output.width = Self.width
      output.height = Self.height
    }
    try socket.send(output)
  }

  private func name(_ generation: UInt32) -> String { "pinhole-conformance-\(generation)" }

  private func add(_ generation: UInt32) throws {
    let size = Int(Self.width * Self.height * 4)
    let file = try MemFD.create(
      name(generation), size: size, seals: [.shrink, .grow, .futureWrite, .seal])
    var add = pinhole_buffer_add()
    add.header = ConformanceSocket.header(PINHOLE_BUFFER_ADD, pinhole_buffer_add.self)
    add.buffer = 1
    add.generation = generation
    add.width = Self.width
    add.height = Self.height
    add.fourcc = 0x3432_5258  // XR24
    add.flags = PINHOLE_BUFFER_COPY
    add.size = UInt64(size)
    add.num_planes = 1
    add.num_fds = 1
    add.planes.0.stride = Self.width * 4
    try socket.send(add, fds: [file.raw])
  }

  private func frame(
    _ generation: UInt32, flags: UInt32 = PINHOLE_FRAME_FULL, rectangles: Int = 1
  ) throws -> UInt64 {
    serial += 1
    var frame = pinhole_frame()
    frame.header = ConformanceSocket.header(PINHOLE_FRAME, pinhole_frame.self)
    frame.flags = rectangles > 1 ? 0 : flags
    frame.serial = serial
    frame.buffer = 1
    frame.generation = generation
    frame.crop = pinhole_rect(x: 0, y: 0, width: Self.width, height: Self.height)
    frame.num_damage = UInt32(rectangles)
    frame.timestamp_ns = Clock.now
    withUnsafeMutableBytes(of: &frame.damage) { bytes in
      for index in 0..<rectangles {
        let part = pinhole_rect(x: UInt32(index * 4), y: 0, width: 2, height: 2)
        bytes.storeBytes(
          of: rectangles == 1 ? frame.crop : part, toByteOffset: index * 16, as: pinhole_rect.self)
      }
    }
    try socket.send(frame)
    return serial
  }

  private func answered(_ serials: [UInt64]) throws {
    var due = Set(serials)
    while !due.isEmpty {
      guard let packet = try answer("FRAME_DONE") else {
        throw ConformanceResult.wrong("it left before it had answered")
      }
      guard packet.type == PINHOLE_FRAME_DONE.rawValue else {
        throw ConformanceResult.wrong("\(packet.name) came instead of FRAME_DONE")
      }
      let done = try packet.body(pinhole_frame_done.self)
      guard due.remove(done.serial) != nil, done.output == 0 else {
        throw ConformanceResult.wrong(
          "FRAME_DONE for frame \(done.serial) of output \(done.output), which is not in flight")
      }
      guard packet.descriptors.isEmpty else {
        throw ConformanceResult.wrong("a descriptor came with FRAME_DONE")
      }
      try timelines.await(done)
    }
  }

  /// The next message that is not about timelines; nil at the end of the connection.
  private func answer(_ what: String) throws -> ConformanceSocket.Packet? {
    while let packet = try socket.receive(waitingFor: what) {
      if try !timelines.take(packet) { return packet }
    }
    return nil
  }

  private func remove(_ generation: UInt32, _ reason: UInt32) throws {
    var remove = pinhole_buffer_remove()
    remove.header = ConformanceSocket.header(PINHOLE_BUFFER_REMOVE, pinhole_buffer_remove.self)
    remove.buffer = 1
    remove.generation = generation
    remove.reason = reason
    try socket.send(remove)
    guard let packet = try answer("BUFFER_CLOSED") else {
      throw ConformanceResult.wrong("it left")
    }
    guard packet.type == PINHOLE_BUFFER_CLOSED.rawValue else {
      throw ConformanceResult.wrong("\(packet.name) came instead of BUFFER_CLOSED")
    }
    let closed = try packet.body(pinhole_buffer_closed.self)
    guard closed.buffer == 1, closed.generation == generation else {
      throw ConformanceResult.wrong("it closed \(closed.buffer).\(closed.generation)")
    }
  }

  private func cursor() throws {
    let file = try MemFD.create("pinhole-conformance-cursor", size: 16)
    try MemFD.add([.shrink, .grow, .write, .seal], to: file.raw)
    var cursor = pinhole_cursor()
    cursor.header = ConformanceSocket.header(PINHOLE_CURSOR, pinhole_cursor.self)
    cursor.flags = PINHOLE_CURSOR_VISIBLE | PINHOLE_CURSOR_IMAGE
    cursor.x = -3
    cursor.width = 2
    cursor.height = 2
    cursor.fourcc = 0x3432_5241  // AR24
    cursor.stride = 8
    cursor.size = 16
    try socket.send(cursor, fds: [file.raw])
  }

  /// The process itself must neither map nor hold the memory; what it started is not looked at.
  private func letGo(of generation: UInt32) throws {
    guard let child else { throw ConformanceResult.skipped("its process is not known") }
    let file: [UInt8]
    do throws(GuestError) { file = try WholeFile.read("/proc/\(child.pid)/maps") } catch {
      throw ConformanceResult.skipped("its memory cannot be looked at")
    }
    if String(decoding: file, as: UTF8.self).contains(name(generation)) {
      throw ConformanceResult.wrong("it still maps buffer 1.\(generation)")
    }
    guard let folder = opendir("/proc/\(child.pid)/fd") else { return }
    defer { closedir(folder) }
    while let entry = readdir(folder) {
      let number = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
        String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      var target = [CChar](repeating: 0, count: 256)
      let length = readlink("/proc/\(child.pid)/fd/\(number)", &target, target.count)
      let link = target.prefix(max(length, 0)).map { UInt8(bitPattern: $0) }
      if String(decoding: link, as: UTF8.self).contains(name(generation)) {
        throw ConformanceResult.wrong("it still holds a descriptor of buffer 1.\(generation)")
      }
    }
  }

  private func leave() throws {
    var error = pinhole_error()
    error.header = ConformanceSocket.header(PINHOLE_ERROR, pinhole_error.self)
    error.code = PINHOLE_ERROR_SHUTDOWN.rawValue
    error.field_offset = PINHOLE_NO_FIELD
    WireText.write("the producer ends", to: &error.text)
    try socket.send(error)
    socket.shutDown()
    guard let child else { throw ConformanceResult.skipped("its process is not known") }
    guard child.waitForEnd(milliseconds: 10_000) != nil else {
      throw ConformanceResult.wrong("it still runs after 10 s")
    }
  }
}
