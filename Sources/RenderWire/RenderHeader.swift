/// Limits and numbers of the protocol between the daemon and a renderer, spoken on one
/// `SOCK_SEQPACKET` socket for each renderer.
///
/// A message is one packet: a ``RenderHeader`` and `length` bytes. The daemon numbers its requests;
/// the renderer runs them in order and answers each once. Only fences are answered out of order,
/// when they retire.
package enum RenderWire {
  /// Both ends must name the same one.
  package static let version: UInt32 = 2
  /// Bytes of a packet with its header; longer payloads go through the ring.
  package static let largestPacket = 64 << 10
  /// Bytes of the ring, a sealed memfd that the daemon writes and the renderer reads.
  package static let ringSize = 40 << 20
  /// Most bytes of one payload in the ring.
  package static let largestPayload = (16 << 20) + 64
  /// Most bytes of a context's name; `struct virtio_gpu_ctx_create` has 64.
  package static let longestName = 64
  /// Most capability sets that a renderer tells of, and bytes of each.
  package static let mostCapsets = 8
  package static let largestCapset = 8 << 10
}

/// What every message begins with.
package struct RenderHeader: Equatable, Sendable {
  /// In bytes.
  package static let size = 16
  /// Set where the payload lies in the ring and the packet says only where: u64 offset, u64 count.
  package static let isInRing: UInt32 = 1 << 0

  /// A ``RenderOpcode`` or ``RenderAnswer``'s number.
  package var operation: UInt32
  /// The request's number, also in its answer.
  package var id: UInt32
  /// Bytes that follow in this packet.
  package var length: UInt32
  /// ``isInRing``, else 0.
  package var flags: UInt32

  package init(operation: UInt32, id: UInt32, length: UInt32, flags: UInt32 = 0) {
    self.operation = operation
    self.id = id
    self.length = length
    self.flags = flags
  }

  /// Reads the header of a whole packet; nil if the packet's length is not what it says, or flags
  /// are set that are not known.
  package init?(_ packet: UnsafeRawBufferPointer) {
    guard packet.count >= Self.size else { return nil }
    func word(_ index: Int) -> UInt32 {
      packet.loadUnaligned(fromByteOffset: index * 4, as: UInt32.self)
    }
    operation = word(0)
    id = word(1)
    length = word(2)
    flags = word(3)
    guard Int(exactly: length) == packet.count - Self.size, flags & ~Self.isInRing == 0 else {
      return nil
    }
  }

  /// A whole packet.
  package func packet(_ payload: [UInt8]) -> [UInt8] {
    var out = RenderWriter()
    out.put(all: operation, id, length, flags)
    out.put(raw: payload)
    return out.bytes
  }
}

/// Where a payload lies in the ring, in bytes.
package struct RingPlace: Equatable, Sendable {
  package var offset: UInt64
  package var count: UInt64

  package init(offset: UInt64, count: UInt64) {
    self.offset = offset
    self.count = count
  }

  /// Decodes what a packet with ``RenderHeader/isInRing`` carries; nil unless it lies in a ring of
  /// this size.
  package init?(_ payload: UnsafeRawBufferPointer, ringSize: Int) {
    var reader = RenderReader(payload)
    offset = reader.u64()
    count = reader.u64()
    let (end, overflow) = offset.addingReportingOverflow(count)
    guard reader.isWhole, !overflow, end <= UInt64(ringSize),
      count <= UInt64(RenderWire.largestPayload)
    else { return nil }
  }

  package var bytes: [UInt8] {
    var out = RenderWriter()
    out.put(offset)
    out.put(count)
    return out.bytes
  }
}
