import Command
import Fences
import FrameProtocol
import Glibc
import Linux
import PinholeProtocol
import Pixels

/// Plays a producer for one consumer.
package struct ConsumerChecks {
  private let path: String
  private let command: [String]

  /// - Parameters:
  ///   - path: where to listen.
  ///   - command: starts the consumer; empty where somebody else does.
  package init(path: String, command: [String]) {
    self.path = path
    self.command = command
  }

  /// Makes all checks.
  ///
  /// - Throws: ``Command/Failure`` where they could not begin.
  package func run(_ report: inout ConformanceReport) throws {
    let listener: SharedFD
    do throws(Errno) {
      listener = SharedFD(try UnixSocket.listen(path, kind: .seqpacket))
    } catch {
      throw Failure("conformance: --listen: \(ListenError(place: path, error: error))")
    }
    defer { unlink(path) }
    let child: ChildProcess?
    do throws(Errno) {
      child = command.isEmpty ? nil : try ChildProcess(command)
    } catch {
      throw Failure(
        "conformance: cannot start \(command.first ?? ""): \(error.message); give a program by its"
          + " path, or one in PATH")
    }
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
  /// Microseconds.
  private static let deadline = UInt32(HoldQueue.defaultDeadline / 1000)
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
      try answered([try frame(1), try frame(1, hasSkipped: true)])
    }
    report.check("optional messages are dropped with their descriptors", optional)
    report.check("cursors need no answer, and old images are not kept", cursors)
    report.check("several damage rectangles are taken") {
      let damage = (0..<UInt32(PINHOLE_MAX_DAMAGE)).map { Rect(x: $0 * 4, width: 2, height: 2) }
      try answered([try frame(1, damage: damage)])
    }
    report.check("unknown reasons of copies are taken") {
      var message = FrameMessage(
        output: 0, serial: serial + 1, buffer: BufferName(number: 1, generation: 1),
        crop: Rect(width: Self.width, height: Self.height)
      ).wire
      message.flags |= 0xff << PINHOLE_FRAME_COPY_SHIFT
      serial += 1
      try socket.send(message)
      try answered([serial])
    }
    report.check("a removed buffer is closed, and the next generation is taken") {
      try remove(1, PINHOLE_REMOVE_DISCARDED.rawValue)
      try add(2)
      try answered([try frame(2)])
    }
    report.check("nothing of a closed buffer is kept") { try letGo(of: name(1)) }
    report.check("a buffer may be removed before its frames are answered") {
      try remove(2, PINHOLE_REMOVE_DISCARDED.rawValue, unanswered: [try frame(2), try frame(2)])
      try add(3)
      try answered([try frame(3)])
    }
    report.check("unknown reasons of removal are taken") {
      try remove(3, 99)
      try add(4)
      try answered([try frame(4)])
    }
    report.check("an output may go and come again") {
      try output(enabled: false)
      try output(enabled: true)
      try answered([try frame(4)])
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
    guard case .hello(let hello) = try packet.message(features: nil) else {
      throw ConformanceResult.wrong("\(packet.name) came first")
    }
    var known = PINHOLE_FEATURE_COPY_ONLY
    if !hello.isCopyOnly { known |= PINHOLE_FEATURE_TIMELINE }
    features = hello.features & known
    timelines.areAgreedOn = features & PINHOLE_FEATURE_TIMELINE != 0
  }

  private func greet() throws {
    try socket.send(
      Producer(
        features: features, maxInFlight: 2, holdDeadline: Self.deadline,
        closeDeadline: Self.deadline, name: "conformance"
      ).wire)
  }

  private func output(enabled: Bool) throws {
    try socket.send(
      OutputState(output: 0, size: enabled ? (Self.width, Self.height) : nil).wire)
  }

  private func name(_ generation: UInt32) -> String { "pinhole-conformance-\(generation)" }

  private func add(_ generation: UInt32) throws {
    let size = Int(Self.width * Self.height * 4)
    let file = try MemFD.create(
      name(generation), size: size, seals: [.shrink, .grow, .futureWrite, .seal])
    let layout = PixelLayout(
      width: Self.width, height: Self.height, stride: Self.width * 4, fourcc: .xrgb8888)
    try socket.send(
      BufferAdd(
        BufferName(number: 1, generation: generation), layout: ImageLayout(layout), memory: .copy,
        size: UInt64(size)
      ).wire, fds: [file.raw])
  }

  private func frame(
    _ generation: UInt32, hasSkipped: Bool = false, damage: [Rect]? = nil
  ) throws -> UInt64 {
    serial += 1
    try socket.send(
      FrameMessage(
        output: 0, serial: serial, buffer: BufferName(number: 1, generation: generation),
        crop: Rect(width: Self.width, height: Self.height), damage: damage,
        hasSkipped: hasSkipped, timestamp: Clock.now
      ).wire)
    return serial
  }

  private func answered(_ serials: [UInt64]) throws {
    var due = Set(serials)
    while !due.isEmpty {
      guard let packet = try answer("FRAME_DONE") else {
        throw ConformanceResult.wrong("it left before it had answered")
      }
      guard case .frameDone(let done) = try packet.message(features: features) else {
        throw ConformanceResult.wrong("\(packet.name) came instead of FRAME_DONE")
      }
      try take(done, of: &due)
    }
  }

  private func take(_ done: FrameDone, of due: inout Set<UInt64>) throws {
    guard due.remove(done.serial) != nil, done.output == 0 else {
      throw ConformanceResult.wrong(
        "FRAME_DONE for frame \(done.serial) of output \(done.output), which is not in flight")
    }
    try timelines.await(done)
  }

  /// The next message that is not about timelines; nil at the end of the connection.
  private func answer(_ what: String) throws -> ConformanceSocket.Packet? {
    while let packet = try socket.receive(waitingFor: what) {
      if try !timelines.take(packet) { return packet }
    }
    return nil
  }

  /// Takes a generation back, of which some frames may not be answered.
  private func remove(_ generation: UInt32, _ reason: UInt32, unanswered: [UInt64] = []) throws {
    let name = BufferName(number: 1, generation: generation)
    var remove = BufferRemove(name, .destroyed).wire
    remove.reason = reason
    try socket.send(remove)
    var due = Set(unanswered)
    while true {
      guard let packet = try answer("BUFFER_CLOSED") else {
        throw ConformanceResult.wrong("it left")
      }
      switch try packet.message(features: features) {
      case .frameDone(let done): try take(done, of: &due)
      case .bufferClosed(let closed):
        guard closed.name == name else { throw ConformanceResult.wrong("it closed \(closed.name)") }
        return
      default:
        throw ConformanceResult.wrong("\(packet.name) came instead of BUFFER_CLOSED")
      }
    }
  }

  /// Sends an image of a cursor, or places the last one.
  private func cursor(_ image: String?) throws {
    var message = CursorMessage(output: 0, isVisible: true, x: -3, y: 0, hotX: 1, hotY: 1)
    guard let image else { return try socket.send(message.wire) }
    let file = try MemFD.create("pinhole-conformance-\(image)", size: 16)
    try MemFD.add([.shrink, .grow, .write, .seal], to: file.raw)
    message.image = CursorMessage.Image(width: 2, height: 2)
    try socket.send(message.wire, fds: [file.raw])
  }

  /// A cursor's image is the consumer's to keep until the next one comes.
  private func cursors() throws {
    try cursor("first-cursor")
    try cursor(nil)
    try cursor("second-cursor")
    try answered([try frame(1)])
    guard child != nil else { return }
    try letGo(of: "pinhole-conformance-first-cursor")
  }

  private func optional() throws {
    let file = try MemFD.create("pinhole-conformance-optional", size: 16)
    try socket.send(
      pinhole_header(type: PINHOLE_OPTIONAL | 0x55, size: 8), fds: [file.raw, file.raw])
    try answered([try frame(1)])
    guard child != nil else { return }
    try letGo(of: "pinhole-conformance-optional")
  }

  /// The process itself must neither map nor hold the memory; what it started is not looked at.
  private func letGo(of file: String) throws {
    guard let child else { throw ConformanceResult.skipped("its process is not known") }
    guard let maps = WholeFile.text("/proc/\(child.pid)/maps") else {
      throw ConformanceResult.skipped("its memory cannot be looked at")
    }
    if maps.contains(file) {
      throw ConformanceResult.wrong("it still maps \(file)")
    }
    let open = (try? Folder.descriptors(of: child.pid)) ?? []
    guard !open.contains(where: { $0.target.contains(file) }) else {
      throw ConformanceResult.wrong("it still holds a descriptor of \(file)")
    }
  }

  private func leave() throws {
    try socket.send(
      Refusal(
        MalformedMessage(code: PINHOLE_ERROR_SHUTDOWN, type: 0, text: "the producer ends")
      ).wire)
    socket.shutDown()
    guard let child else { throw ConformanceResult.skipped("its process is not known") }
    guard child.waitForEnd(milliseconds: 10_000) != nil else {
      throw ConformanceResult.wrong("it still runs after 10 s")
    }
  }
}
