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
}

/// A packet of a known type, copied out of the receive buffer.
package struct WireMessage<Body: BitwiseCopyable> {
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
    body = packet.loadUnaligned(as: Body.self)
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
  package static func read<Field: BitwiseCopyable>(_ field: Field) -> String? {
    withUnsafeBytes(of: field) { bytes in
      guard let end = bytes.firstIndex(of: 0) else { return nil }
      return String(validating: bytes[..<end], as: UTF8.self)
    }
  }

  /// Fills a field, cutting the text at a character.
  package static func write<Field: BitwiseCopyable>(_ text: String, to field: inout Field) {
    withUnsafeMutableBytes(of: &field) { bytes in
      var at = 0
      for character in text where character != "\0" {
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
