import FrameProtocol
import Glibc
import Linux
import PinholeFrames
import PinholeProtocol

/// Plays consumers at a producer.
package struct ProducerChecks {
  let path: String

  /// - Parameter path: where the producer listens.
  package init(path: String) { self.path = path }

  typealias Hello = pinhole_consumer_hello

  private func hello(_ change: (inout Hello) -> Void = { _ in }) -> Hello {
    var hello = ConsumerHello(name: "conformance").wire
    change(&hello)
    return hello
  }

  /// Makes all checks.
  package func run(_ report: inout ConformanceReport) {
    guard report.check("hello is answered", { _ = try greeted() }) else { return }
    report.check("features are a subset of those wanted") {
      let none = try greeted().1
      guard none.features == 0 else { throw wrong("features \(none.features) hold unasked") }
      for bit in 0..<64 {
        let wanted = UInt64(1) << UInt64(bit)
        let features = try greeted { $0.features = wanted }.1.features
        guard features & ~wanted == 0 else {
          throw wrong("features \(features) hold where \(wanted) was wanted")
        }
      }
    }
    report.check("a name may hold anything that is UTF-8") {
      let name: [UInt8] = [0x0a, 0x1b, 0x5b, 0x33, 0x31, 0x6d, 0xc2, 0x9b, 0xf0, 0x9f, 0x90, 0xa7]
      _ = try greeted { hello in
        withUnsafeMutableBytes(of: &hello.name) {
          for index in $0.indices { $0[index] = 0 }
          $0.copyBytes(from: name)
        }
      }
    }
    report.check("what is behind the name's end does not matter") {
      _ = try greeted { hello in
        withUnsafeMutableBytes(of: &hello.name) { $0[$0.count - 1] = 0xff }
      }
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
    var type: UInt32?
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
    Mistake(name: "an unknown type", code: PINHOLE_ERROR_MALFORMED, field: 0, type: 0x77) {
      $0.header.type = 0x77
    },
    Mistake(name: "a producer's type", code: PINHOLE_ERROR_MALFORMED, field: 0, type: 0x104) {
      $0.header.type = 0x104
    },
  ]

  private func refusals(_ report: inout ConformanceReport) {
    for mistake in Self.mistakes {
      report.check("refused by name: \(mistake.name)") {
        let socket = try ConformanceSocket(path: path)
        try socket.send(hello(mistake.change))
        let type = mistake.type ?? PINHOLE_CONSUMER_HELLO.rawValue
        try expectError(socket, mistake.code, mistake.field, of: type)
      }
    }
    report.check("refused by name: FRAME_DONE before hello") {
      let socket = try ConformanceSocket(path: path)
      try socket.send(done(1))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 0, of: doneType)
    }
    report.check("refused by name: hello with a descriptor") {
      let socket = try ConformanceSocket(path: path)
      let null = try OwnedFD.open("/dev/null", O_RDONLY)
      try socket.send(hello(), fds: [null.raw])
      try expectError(
        socket, PINHOLE_ERROR_MALFORMED, PINHOLE_NO_FIELD, of: PINHOLE_CONSUMER_HELLO.rawValue)
    }
  }

  func expectError(
    _ socket: ConformanceSocket, _ code: pinhole_error_code, _ field: UInt32, of type: UInt32?
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
    if let type, error.message_type != type {
      throw wrong(
        "message_type is \(WireName.message(error.message_type)), not \(WireName.message(type))")
    }
    guard let text = WireText.read(error.text), !text.isEmpty else {
      throw wrong("the error has no words")
    }
  }

  private var doneType: UInt32 { PINHOLE_FRAME_DONE.rawValue }

  func done(_ serial: UInt64) -> pinhole_frame_done {
    FrameDone(output: 0, serial: serial).wire
  }

  private func conversation(_ report: inout ConformanceReport) {
    report.check("refused by name: FRAME_DONE for a frame that is not in flight") {
      let socket = try greeted().0
      try socket.send(done(.max))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 16, of: doneType)
    }
    report.check("refused by name: BUFFER_CLOSED for a buffer that was not removed") {
      let socket = try greeted().0
      let closed = BufferClosed(BufferName(number: .max, generation: 1)).wire
      try socket.send(closed)
      try expectError(
        socket, PINHOLE_ERROR_UNEXPECTED, 8, of: PINHOLE_BUFFER_CLOSED.rawValue)
    }
    report.check("refused by name: a fence that was not agreed on") {
      let socket = try greeted().0
      var message = done(.max)
      message.release_kind = PINHOLE_FENCE_TIMELINE.rawValue
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 12, of: doneType)
    }
    report.check("refused by name: a second hello") {
      let socket = try greeted().0
      try socket.send(hello())
      try expectError(
        socket, PINHOLE_ERROR_UNEXPECTED, 0, of: PINHOLE_CONSUMER_HELLO.rawValue)
    }
    report.check("refused by name: an unknown type after the hello") {
      let socket = try greeted().0
      try socket.send(pinhole_header(type: 0x77, size: 8))
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 0, of: 0x77)
    }
    report.check("refused by name: a packet that is too long") {
      let socket = try greeted().0
      try socket.send([UInt8](repeating: 0, count: Int(PINHOLE_MAX_MESSAGE) + 1))
      try expectError(socket, PINHOLE_ERROR_MALFORMED, PINHOLE_NO_FIELD, of: nil)
    }
    report.check("refused by name: half a header") {
      let socket = try greeted().0
      try socket.send(UInt32(PINHOLE_FRAME_DONE.rawValue))
      try expectError(socket, PINHOLE_ERROR_MALFORMED, PINHOLE_NO_FIELD, of: 0)
    }
    report.check("refused by name: an output that there is not") {
      let socket = try greeted().0
      var message = done(1)
      message.output = PINHOLE_MAX_OUTPUTS
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 8, of: doneType)
    }
    report.check("refused by name: a point without a timeline") {
      let socket = try greeted().0
      var message = done(1)
      message.release_point = 1
      try socket.send(message)
      try expectError(socket, PINHOLE_ERROR_MALFORMED, 24, of: doneType)
    }
    report.check("optional messages are ignored with their descriptors") {
      let socket = try greeted().0
      let null = try OwnedFD.open("/dev/null", O_RDONLY)
      try socket.send(pinhole_header(type: PINHOLE_OPTIONAL | 0x55, size: 8), fds: [null.raw])
      // It still listens: the next mistake is the one that it names.
      try socket.send(done(.max))
      try expectError(socket, PINHOLE_ERROR_UNEXPECTED, 16, of: doneType)
    }
  }
}
