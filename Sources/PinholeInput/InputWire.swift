import PinholeProtocol

/// Messages of pinhole_input.h as bytes, and checked.
package enum InputWire {
  /// A packet that is not a message.
  package struct Malformed: Error, Equatable {
    package let text: String
    package init(_ text: String) { self.text = text }
  }

  /// A message of a controller.
  package enum Message: Equatable {
    case hello(version: UInt32, name: String)
    case events(output: UInt32, width: UInt32, height: UInt32, [InputEvent])
  }

  /// Reads a packet of a controller.
  package static func parse(_ packet: UnsafeRawBufferPointer) throws(Malformed) -> Message {
    switch try type(of: packet) {
    case PINHOLE_INPUT_HELLO.rawValue:
      let body: pinhole_input_hello = try load(packet)
      guard body.magic == PINHOLE_INPUT_MAGIC else { throw Malformed("HELLO has another magic") }
      return .hello(version: body.version, name: text(of: body.name))
    case PINHOLE_INPUT_EVENTS.rawValue: return try events(packet)
    case let other: throw Malformed("message type \(other) is not known")
    }
  }

  /// The type of a packet whose header is right.
  package static func type(of packet: UnsafeRawBufferPointer) throws(Malformed) -> UInt32 {
    guard packet.count >= MemoryLayout<pinhole_input_header>.size else {
      throw Malformed("a packet of \(packet.count) bytes has no header")
    }
    let header = packet.loadUnaligned(as: pinhole_input_header.self)
    guard UInt64(header.size) == UInt64(packet.count) else {
      throw Malformed("header.size is \(header.size) in a packet of \(packet.count) bytes")
    }
    return header.type
  }

  /// A message without variable parts.
  package static func load<Body: BitwiseCopyable>(
    _ packet: UnsafeRawBufferPointer
  ) throws(Malformed) -> Body {
    guard packet.count == MemoryLayout<Body>.size else {
      throw Malformed("a message has \(packet.count) bytes, not \(MemoryLayout<Body>.size)")
    }
    return packet.loadUnaligned(as: Body.self)
  }

  private static func events(_ packet: UnsafeRawBufferPointer) throws(Malformed) -> Message {
    guard packet.count >= headSize else { throw Malformed("EVENTS is cut off") }
    func word(_ offset: Int) -> UInt32 {
      packet.loadUnaligned(fromByteOffset: offset, as: UInt32.self)
    }
    let count = word(20)
    guard (1...PINHOLE_INPUT_MAX_EVENTS).contains(count) else {
      throw Malformed("EVENTS has a count of \(count)")
    }
    guard packet.count == headSize + eventSize * Int(count) else {
      throw Malformed("EVENTS with \(count) events has \(packet.count) bytes")
    }
    let (output, width, height) = (word(8), word(12), word(16))
    var events: [InputEvent] = []
    for index in 0..<Int(count) {
      let raw = packet.loadUnaligned(
        fromByteOffset: headSize + eventSize * index, as: pinhole_input_event.self)
      switch raw.type {
      case EventType.key where (0...2).contains(raw.value): break
      case EventType.relative: break
      case EventType.absolute:
        guard width > 0, height > 0, raw.code <= Axis.y else {
          throw Malformed("EV_ABS needs an axis of the output and the output's size")
        }
      default: throw Malformed("event \(raw.type) \(raw.code) \(raw.value) is not one to send")
      }
      events.append(InputEvent(type: raw.type, code: raw.code, value: raw.value))
    }
    return .events(output: output, width: width, height: height, events)
  }

  /// EVENTS as bytes.
  package static func events(
    _ events: [InputEvent], output: UInt32, width: UInt32, height: UInt32
  ) -> [UInt8] {
    var words = [
      PINHOLE_INPUT_EVENTS.rawValue, UInt32(headSize + eventSize * events.count), output, width,
      height, UInt32(events.count),
    ]
    for event in events {
      words.append(UInt32(event.type) | UInt32(event.code) << 16)
      words.append(UInt32(bitPattern: event.value))
    }
    return words.withUnsafeBytes { Array($0) }
  }

  /// A message without variable parts as bytes, with its header.
  package static func bytes<Body: BitwiseCopyable>(
    _ type: pinhole_input_message, _ body: Body
  ) -> [UInt8] {
    var bytes = withUnsafeBytes(of: body) { Array($0) }
    let header = pinhole_input_header(type: type.rawValue, size: UInt32(bytes.count))
    withUnsafeBytes(of: header) { bytes.replaceSubrange(0..<$0.count, with: $0) }
    return bytes
  }

  /// A field of characters that ends with NUL; what is not UTF-8 is replaced.
  package static func text<Field: BitwiseCopyable>(of field: Field) -> String {
    withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  /// Writes a field of characters, cut so that a NUL follows.
  package static func write<Field: BitwiseCopyable>(_ text: String, to field: inout Field) {
    withUnsafeMutableBytes(of: &field) { room in
      for (index, byte) in text.utf8.prefix(max(room.count - 1, 0)).enumerated() {
        room[index] = byte
      }
    }
  }

  private static let headSize = 24
  private static let eventSize = MemoryLayout<pinhole_input_event>.size
}
