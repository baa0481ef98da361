import PinholeProtocol

/// What is wrong with a packet of the frame protocol.
package struct MalformedMessage: Error, Equatable {
  /// The code to answer with.
  package var code: pinhole_error_code
  /// `header.type` of the packet, 0 if it has none.
  package var type: UInt32
  /// Bytes from the start of the packet to the field at fault, or `PINHOLE_NO_FIELD`.
  package var field: UInt32
  /// For people.
  package var text: String

  /// Describes a fault.
  package init(
    code: pinhole_error_code = PINHOLE_ERROR_MALFORMED, type: UInt32,
    field: UInt32 = PINHOLE_NO_FIELD, text: String
  ) {
    self.code = code
    self.type = type
    self.field = field
    self.text = text
  }

  /// Describes a fault at a field of the message's struct, or at none.
  package init<Body>(
    code: pinhole_error_code = PINHOLE_ERROR_MALFORMED, type: UInt32,
    at field: PartialKeyPath<Body>?, text: String
  ) {
    let offset = field.flatMap { MemoryLayout<Body>.offset(of: $0) }
    self.init(
      code: code, type: type, field: offset.map { UInt32($0) } ?? PINHOLE_NO_FIELD, text: text)
  }
}

/// The header of a packet, checked against the packet's length.
package struct WireHeader {
  /// `header.type`.
  package let type: UInt32
  /// May be ignored by those who do not know it.
  package var isOptional: Bool { type & PINHOLE_OPTIONAL != 0 }

  /// Reads the header of a packet.
  package init(_ packet: UnsafeRawBufferPointer) throws(MalformedMessage) {
    guard packet.count >= MemoryLayout<pinhole_header>.size else {
      throw MalformedMessage(type: 0, text: "a packet of \(packet.count) bytes has no header")
    }
    let header = packet.loadUnaligned(as: pinhole_header.self)
    guard UInt64(header.size) == UInt64(packet.count) else {
      throw MalformedMessage(
        type: header.type, field: 4,
        text: "header.size is \(header.size) in a packet of \(packet.count) bytes")
    }
    type = header.type
  }

  /// Goes on if the message may come now.
  func require(_ isDue: Bool, _ text: @autoclosure () -> String) throws(MalformedMessage) {
    if isDue { return }
    throw MalformedMessage(code: PINHOLE_ERROR_UNEXPECTED, type: type, field: 0, text: text())
  }

  /// Goes on if the feature that the type belongs to holds; else it is not known.
  func requireFeature(_ feature: UInt64, of context: WireContext) throws(MalformedMessage) {
    if context.features & feature != 0 { return }
    throw MalformedMessage(
      type: type, field: 0, text: "\(WireName.message(type)) was not agreed on")
  }

  /// Goes on if whoever does not know the type is to drop it.
  func requireOptional(_ text: String) throws(MalformedMessage) {
    if isOptional { return }
    throw MalformedMessage(
      type: type, field: 0, text: "\(WireName.message(type)) \(text)")
  }
}

/// A packet of a known type, copied out of the receive buffer.
package struct WireMessage<Body: WireStruct> {
  /// The struct of the C header.
  package let body: Body
  private let type: UInt32

  /// Reads a packet whose header was checked.
  ///
  /// - Throws: when the packet is not as long as the struct.
  package init(
    _ packet: UnsafeRawBufferPointer, _ header: WireHeader, as _: Body.Type = Body.self
  ) throws(MalformedMessage) {
    guard packet.count == MemoryLayout<Body>.size else {
      throw MalformedMessage(
        type: header.type, field: 4,
        text: "\(packet.count) bytes, but this message has \(MemoryLayout<Body>.size)")
    }
    var body = Body()
    withUnsafeMutableBytes(of: &body) { $0.copyMemory(from: packet) }
    self.body = body
    type = header.type
  }

  /// Goes on if a condition holds; else names the field at fault.
  package func require(
    _ condition: Bool, _ field: @autoclosure () -> PartialKeyPath<Body>,
    _ text: @autoclosure () -> String, code: pinhole_error_code = PINHOLE_ERROR_MALFORMED
  ) throws(MalformedMessage) {
    if condition { return }
    throw fault(field(), text(), code: code)
  }

  /// The same for an element of an array: `plus` bytes behind the field.
  func require(
    _ condition: Bool, _ field: @autoclosure () -> PartialKeyPath<Body>, plus: Int,
    _ text: @autoclosure () -> String
  ) throws(MalformedMessage) {
    if condition { return }
    var fault = fault(field(), text())
    if fault.field != PINHOLE_NO_FIELD { fault.field &+= UInt32(truncatingIfNeeded: plus) }
    throw fault
  }

  /// Goes on if an output's number is one.
  func requireOutput(
    _ output: UInt32, _ field: @autoclosure () -> PartialKeyPath<Body>
  ) throws(MalformedMessage) {
    try require(output < PINHOLE_MAX_OUTPUTS, field(), "there is no output \(output)")
  }

  /// A fault of this packet.
  package func fault(
    _ field: PartialKeyPath<Body>?, _ text: String,
    code: pinhole_error_code = PINHOLE_ERROR_MALFORMED
  ) -> MalformedMessage {
    MalformedMessage(code: code, type: type, at: field, text: text)
  }

  /// Goes on if exactly as many descriptors came as belong to the message.
  package func requireDescriptors(_ got: Int, _ due: Int) throws(MalformedMessage) {
    if got == due { return }
    throw fault(nil, "\(got) descriptors came, \(due) belong to this message")
  }
}

/// Text in a fixed array of bytes that ends with a NUL.
package enum WireText {
  /// Reads a field; nil without a NUL or when it is not UTF-8.
  ///
  /// What a terminal or a log would take for a command, or could not tell from a line of its own,
  /// is replaced by U+FFFD.
  package static func read<Field: BitwiseCopyable>(_ field: Field) -> String? {
    withUnsafeBytes(of: field) { bytes in
      guard let end = bytes.firstIndex(of: 0) else { return nil }
      return String(validating: bytes[..<end], as: UTF8.self).map(harmless)
    }
  }

  /// Text of a stranger as it may be shown: control characters (ISO 6429), line separators and
  /// those that change the direction of writing are replaced.
  package static func harmless(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      result.unicodeScalars.append(isHarmless(scalar) ? scalar : "\u{fffd}")
    }
    return result
  }

  private static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7f..<0xa0, 0x200e...0x200f, 0x2028...0x202e, 0x2066...0x2069: false
    default: true
    }
  }

  /// Fills a field, cutting the text at a character.
  package static func write<Field: BitwiseCopyable>(_ text: String, to field: inout Field) {
    let text = harmless(text)
    withUnsafeMutableBytes(of: &field) { bytes in
      var at = 0
      for character in text {
        let utf8 = character.utf8
        guard at + utf8.count < bytes.count else { break }
        for byte in utf8 {
          bytes[at] = byte
          at += 1
        }
      }
      for i in at..<bytes.count { bytes[i] = 0 }
    }
  }
}
