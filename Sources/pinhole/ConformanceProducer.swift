import FrameWire
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol

/// Plays consumers at a producer.
struct ProducerChecks {
  let path: String

  typealias Hello = pinhole_consumer_hello

  private func hello(_ change: (inout Hello) -> Void = { _ in }) -> Hello {
    var hello = Hello()
    hello.header = ConformanceSocket.header(PINHOLE_CONSUMER_HELLO, Hello.self)
    hello.magic = PINHOLE_MAGIC
    hello.min_version = PINHOLE_VERSION
    hello.max_version = PINHOLE_VERSION
    WireText.write("conformance", to: &hello.name)
    change(&hello)
    return hello
  }

  func run(_ report: inout ConformanceReport) {
    guard report.check("hello is answered", { _ = try greeted() }) else { return }
    report.check("features are a subset of those wanted") {
      let none = try greeted().1
      guard none.features == 0 else { throw wrong("features \(none.features) hold unasked") }
      let all = try greeted { $0.features = .max }.1
      let known: UInt64 = 15
      guard all.features & ~known == 0 else { throw wrong("features \(all.features) hold") }
    }
    report.check("a later version is no hindrance") {
      let answer = try greeted { $0.max_version = 99 }.1
      guard answer.version == PINHOLE_VERSION else { throw wrong("version \(answer.version)") }
    }
    refusals(&report)
    conversation(&report)
    timelines(&report)
    pictures(&report)
  }

  func wrong(_ text: String) -> ConformanceResult { .wrong(text) }

  func greeted(
    _ change: (inout Hello) -> Void = { _ in }
  ) throws -> (ConformanceSocket, pinhole_producer_hello) {
    let socket = try ConformanceSocket(path: path)
    try socket.send(hello(change))
    guard let packet = try socket.receive(waitingFor: "PRODUCER_HELLO") else {
      throw wrong("the connection ended without an answer")
    }
    guard packet.type == PINHOLE_PRODUCER_HELLO.rawValue else {
      throw wrong("\(packet.name) came first")
    }
    let answer = try packet.body(pinhole_producer_hello.self)
    guard packet.descriptors.isEmpty else { throw wrong("descriptors came with it") }
    guard answer.magic == PINHOLE_MAGIC else { throw wrong("the magic is wrong") }
    guard answer.max_in_flight >= 1 else { throw wrong("max_in_flight is 0") }
    guard (1...PINHOLE_MAX_OUTPUTS).contains(answer.max_outputs) else {
      throw wrong("max_outputs is \(answer.max_outputs)")
    }
    guard WireText.read(answer.name) != nil else { throw wrong("the name has no end") }
    return (socket, answer)
  }

  // MARK: Mistakes

  private struct Mistake: Sendable {
    let name: String
    let code: pinhole_error_code
    let field: UInt32
    let change: @Sendable (inout Hello) -> Void
  }

  private static let mistakes = [
    Mistake(name: "magic", code: PINHOLE_ERROR_MALFORMED, field: 8) { $0.magic = 1 },
    Mistake(name: "min_version 0", code: PINHOLE_ERROR_MALFORMED, field: 12) {
      $0.min_version = 0
    },
    Mistake(name: "versions in disorder", code: PINHOLE_ERROR_MALFORMED, field: 16) {
      $0.min_version = 2
    },
    Mistake(name: "no common version", code: PINHOLE_ERROR_VERSION, field: 12) {
      $0.min_version = 98
      $0.max_version = 99
    },
    Mistake(name: "unknown flags", code: PINHOLE_ERROR_MALFORMED, field: 20) {
      $0.flags = 1 << 31
    },
    Mistake(name: "a flag without its feature", code: PINHOLE_ERROR_UNSUPPORTED, field: 20) {
      $0.flags = PINHOLE_CONSUMER_COPY_ONLY
    },
    Mistake(name: "stride_align 3", code: PINHOLE_ERROR_MALFORMED, field: 32) {
      $0.stride_align = 3
    },
    Mistake(name: "height_align 8192", code: PINHOLE_ERROR_MALFORMED, field: 36) {
      $0.height_align = 8192
    },
    Mistake(name: "a name without end", code: PINHOLE_ERROR_MALFORMED, field: 40) {
      withUnsafeMutableBytes(of: &$0.name) { for i in $0.indices { $0[i] = 65 } }
    },
    Mistake(name: "header.size", code: PINHOLE_ERROR_MALFORMED, field: 4) {
      $0.header.size = 71
    },
    Mistake(name: "an unknown type", code: PINHOLE_ERROR_MALFORMED, field: 0) {
      $0.header.type = 0x77
    },
  ]

  private func refusals(_ report: inout ConformanceReport) {
    for mistake in Self.mistakes {
      report.check("refused by name: \(mistake.name)") {
        let socket = try ConformanceSocket(path: path)
        try socket.send(hello(mistake.change))
        try expectError(socket, mistake.code, mistake.field)
      }
    }
    report.check("refused by name: FRAME_DONE before hello") {
      let socket = try ConformanceSocket(path: path)
      try socket.send(done(1))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 0)
    }
    report.check("refused by name: hello with a descriptor") {
      let socket = try ConformanceSocket(path: path)
      let null = try OwnedFD.open("/dev/null", O_RDONLY)
      try socket.send(hello(), fds: [null.raw])
      try expectError(socket, PINHOLE_ERROR_MALFORMED, PINHOLE_NO_FIELD)
    }
  }

  func expectError(
    _ socket: ConformanceSocket, _ code: pinhole_error_code, _ field: UInt32
  ) throws {
    var last: ConformanceSocket.Packet?
    while let packet = try socket.receive(waitingFor: "ERROR") { last = packet }
    guard let last, last.type == PINHOLE_ERROR.rawValue else {
      throw wrong("the connection ended with \(last?.name ?? "nothing"), not with ERROR")
    }
    let error = try last.body(pinhole_error.self)
    guard error.code == code.rawValue else {
      throw wrong(
        "the code is \(WireName.error(error.code)), not \(WireName.error(code.rawValue))")
    }
    guard error.field_offset == field else {
      throw wrong("the field is at byte \(error.field_offset), not \(field)")
    }
    guard let text = WireText.read(error.text), !text.isEmpty else {
      throw wrong("the error has no words")
    }
  }

  func done(_ serial: UInt64) -> pinhole_frame_done {
    var done = pinhole_frame_done()
    done.header = ConformanceSocket.header(PINHOLE_FRAME_DONE, pinhole_frame_done.self)
    done.serial = serial
    return done
  }

  private func conversation(_ report: inout ConformanceReport) {
    report.check("refused by name: FRAME_DONE for a frame that is not in flight") {
      let socket = try greeted().0
      try socket.send(done(.max))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 16)
    }
    report.check("refused by name: BUFFER_CLOSED for a buffer that was not removed") {
      let socket = try greeted().0
      let closed = pinhole_buffer_closed(
        header: ConformanceSocket.header(PINHOLE_BUFFER_CLOSED, pinhole_buffer_closed.self),
        buffer: .max, generation: 1)
      try socket.send(closed)
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 8)
    }
    report.check("refused by name: a fence that was not agreed on") {
      let socket = try greeted().0
      var message = done(.max)
      message.release_kind = PINHOLE_FENCE_TIMELINE.rawValue
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 12)
    }
    report.check("refused by name: a second hello") {
      let socket = try greeted().0
      try socket.send(hello())
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, PINHOLE_NO_FIELD)
    }
    report.check("optional messages are ignored with their descriptors") {
      let socket = try greeted().0
      let null = try OwnedFD.open("/dev/null", O_RDONLY)
      try socket.send(pinhole_header(type: PINHOLE_OPTIONAL | 0x55, size: 8), fds: [null.raw])
      // It still listens: the next mistake is the one that it names.
      try socket.send(done(.max))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 16)
    }
  }

  // MARK: Pictures

  private func pictures(_ report: inout ConformanceReport) {
    report.check("what is on screen is shown, in order and within limits") {
      _ = try firstFrame(.init(name: "conformance"))
    }
    report.check("no more frames than max_in_flight without an answer") {
      let (consumer, first) = try firstFrame(.init(name: "conformance"))
      var counts: [UInt32: UInt32] = [first.output: 1]
      while let event = try consumer.next(timeout: 300) {
        if case .frame(let frame) = event { counts[frame.output, default: 0] += 1 }
      }
      let limit = consumer.producer?.maxInFlight ?? 0
      if let most = counts.values.max(), most > limit {
        throw wrong("\(most) frames are in flight, \(limit) may be")
      }
    }
    report.check("a released frame is not sent again with the same serial") {
      let (consumer, first) = try firstFrame(.init(name: "conformance"))
      try consumer.done(first)
      // The library refuses serials that do not rise.
      while let event = try consumer.next(timeout: 300) {
        if case .frame(let frame) = event { try consumer.done(frame) }
      }
    }
    report.check("copy-only consumers get memory that they cannot write") {
      let (consumer, frame) = try firstFrame(.init(name: "conformance", copyOnly: true))
      guard let buffer = consumer.buffers[frame.buffer] else { throw wrong("no buffer") }
      guard buffer.memory == .copy else { throw wrong("\(buffer) is no copy") }
      if (try? Mapping(fd: buffer.descriptor, offset: 0, count: 4096, writable: true)) != nil {
        throw wrong("the copy can be mapped for writing")
      }
      var byte: UInt8 = 0
      guard pwrite(buffer.descriptor, &byte, 1, 0) < 0 else { throw wrong("it can be written to") }
    }
    report.check("rows are aligned as asked for") {
      let (consumer, frame) = try firstFrame(
        .init(name: "conformance", strideAlignment: 4096, heightAlignment: 64))
      guard consumer.producer?.features ?? 0 & PINHOLE_FEATURE_ALIGNMENT != 0 else {
        throw ConformanceResult.skipped("the feature ALIGNMENT does not hold")
      }
      guard let buffer = consumer.buffers[frame.buffer] else { throw wrong("no buffer") }
      let rows = (UInt64(buffer.height) + 63) / 64 * 64
      guard buffer.stride % 4096 == 0, buffer.offset + rows * UInt64(buffer.stride) <= buffer.size
      else { throw wrong("\(buffer) in \(buffer.size) bytes") }
    }
  }

  /// Connects and waits for a frame; everything is checked by the client library on the way.
  func firstFrame(
    _ options: FrameConsumer.Options
  ) throws -> (FrameConsumer, ReceivedFrame) {
    let consumer = try FrameConsumer(path: path, options: options)
    while let event = try consumer.next(timeout: 2000) {
      if case .frame(let frame) = event { return (consumer, frame) }
    }
    throw ConformanceResult.skipped("nothing is on screen")
  }
}
