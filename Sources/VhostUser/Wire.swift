/// Little-endian words at explicit offsets of a received payload.
package struct WireReader: Sendable {
  package let bytes: [UInt8]
  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// Zero where the word passes the end; callers check sizes first.
  package func u32(_ offset: Int) -> UInt32 { UInt32(truncatingIfNeeded: word(offset, 4)) }
  package func u64(_ offset: Int) -> UInt64 { word(offset, 8) }

  private func word(_ offset: Int, _ count: Int) -> UInt64 {
    guard offset >= 0, offset <= bytes.count &- count else { return 0 }
    var value: UInt64 = 0
    for i in 0..<count { value |= UInt64(bytes[offset &+ i]) << UInt64(8 &* i) }
    return value
  }
}

/// Little-endian words appended to a payload.
package struct WireWriter: Sendable {
  package private(set) var bytes: [UInt8] = []
  package init() {}

  package mutating func u32(_ value: UInt32) {
    for shift in stride(from: 0, to: 32, by: 8) {
      bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(shift)))
    }
  }

  package mutating func u64(_ value: UInt64) {
    u32(UInt32(truncatingIfNeeded: value))
    u32(UInt32(truncatingIfNeeded: value >> 32))
  }

  package mutating func raw(_ more: some Sequence<UInt8>) { bytes.append(contentsOf: more) }
}

/// The twelve bytes before every payload ("Header").
package struct VhostUserHeader: Equatable, Sendable {
  package static let size = 12
  package static let version: UInt32 = 1
  package static let versionMask: UInt32 = 0x3
  package static let reply: UInt32 = 0x4
  package static let needReply: UInt32 = 0x8

  /// Offset 0: the request's number.
  package var request: UInt32
  /// Offset 4: version in bits 0 and 1, reply in bit 2, need_reply in bit 3.
  package var flags: UInt32
  /// Offset 8: bytes of payload.
  package var payloadSize: UInt32

  package init(request: UInt32, flags: UInt32, payloadSize: UInt32) {
    self.request = request
    self.flags = flags
    self.payloadSize = payloadSize
  }

  package init(_ bytes: [UInt8]) {
    let reader = WireReader(bytes)
    self.init(request: reader.u32(0), flags: reader.u32(4), payloadSize: reader.u32(8))
  }
}

/// A whole message in either direction, without its descriptors.
package struct VhostUserMessage: Equatable, Sendable {
  /// QEMU's largest message has less than this; more is malformed.
  package static let maxPayload = 4096
  /// Descriptors that travel with one message, `VHOST_MEMORY_BASELINE_NREGIONS`.
  package static let maxFDs = 8

  package var request: UInt32
  package var flags: UInt32
  package var payload: [UInt8]

  package init(request: UInt32, flags: UInt32, payload: [UInt8]) {
    self.request = request
    self.flags = flags
    self.payload = payload
  }

  /// A front-end's request.
  package init(_ request: FrontEndRequest, needReply: Bool = false, _ payload: [UInt8] = []) {
    let flags = VhostUserHeader.version | (needReply ? VhostUserHeader.needReply : 0)
    self.init(request: request.rawValue, flags: flags, payload: payload)
  }

  /// The answer to a request: nothing but version and reply bit in its flags.
  package init(replyTo request: FrontEndRequest, _ payload: [UInt8]) {
    self.init(
      request: request.rawValue, flags: VhostUserHeader.version | VhostUserHeader.reply,
      payload: payload)
  }

  package var needsReply: Bool { flags & VhostUserHeader.needReply != 0 }

  /// Header and payload as they travel.
  package var encoded: [UInt8] {
    var writer = WireWriter()
    writer.u32(request)
    writer.u32(flags)
    writer.u32(UInt32(payload.count))
    writer.raw(payload)
    return writer.bytes
  }
}
