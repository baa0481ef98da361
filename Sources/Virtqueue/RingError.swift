/// Why a split virtqueue cannot be served any further.
///
/// Each case names the queue and what in guest memory was wrong. The ring is dead until the
/// driver resets it (virtio 1.3, 2.7).
public enum RingError: Error, Equatable, Sendable, CustomStringConvertible {
  /// One of the three parts of a split ring.
  public enum Part: String, Sendable {
    /// The descriptor table.
    case descriptors = "descriptor table"
    /// The driver's ring.
    case available = "available ring"
    /// The device's ring.
    case used = "used ring"
  }

  /// The queue size is zero, not a power of two or above 32768.
  case size(queue: Int, size: UInt16)
  /// A part does not start at a multiple of 16, 2 or 4 bytes.
  case misaligned(queue: Int, Part, address: UInt64)
  /// A part does not lie in one region of guest memory.
  case unmapped(queue: Int, Part, address: UInt64)
  /// The available index moved by more than the queue's size.
  case availableJump(queue: Int, from: UInt16, to: UInt16)
  /// More chains are in the device's hands than the queue has descriptors.
  case tooManyInFlight(queue: Int, size: UInt16)
  /// A chain begins outside the descriptor table.
  case headOutOfRange(queue: Int, head: UInt16)
  /// A descriptor points outside its table.
  case nextOutOfRange(queue: Int, head: UInt16, next: UInt16)
  /// A chain has more descriptors than it may have, as a loop does.
  case chainTooLong(queue: Int, head: UInt16)
  /// The buffers of a chain sum up to 4 GiB or more.
  case tooManyBytes(queue: Int, head: UInt16)
  /// A buffer is not in the guest's memory.
  case bufferUnmapped(queue: Int, head: UInt16, address: UInt64, count: UInt32)
  /// A device-readable buffer follows a device-writable one.
  case readableAfterWritable(queue: Int, head: UInt16)
  /// An indirect descriptor without `VIRTIO_F_INDIRECT_DESC`.
  case indirectNotNegotiated(queue: Int, head: UInt16)
  /// An indirect table inside an indirect table.
  case nestedIndirect(queue: Int, head: UInt16)
  /// A descriptor that is indirect and has a successor.
  case indirectWithNext(queue: Int, head: UInt16)
  /// An indirect table that is empty, no multiple of 16 bytes, or has too many entries.
  case indirectLength(queue: Int, head: UInt16, count: UInt32)
  /// An indirect table is not in the guest's memory.
  case indirectUnmapped(queue: Int, head: UInt16, address: UInt64)

  /// What was wrong, in which queue, at which index.
  public var description: String {
    func hex(_ value: UInt64) -> String { "0x" + String(value, radix: 16) }
    switch self {
    case .size(let q, let n): return "queue \(q): size \(n) is not a power of two up to 32768"
    case .misaligned(let q, let part, let a):
      return "queue \(q): the \(part.rawValue) at \(hex(a)) is not aligned"
    case .unmapped(let q, let part, let a):
      return "queue \(q): the \(part.rawValue) at \(hex(a)) is not in guest memory"
    case .availableJump(let q, let from, let to):
      return "queue \(q): the available index jumps from \(from) to \(to)"
    case .tooManyInFlight(let q, let n):
      return "queue \(q): more than \(n) chains are in flight"
    case .headOutOfRange(let q, let head):
      return "queue \(q): head \(head) is outside the descriptor table"
    case .nextOutOfRange(let q, let head, let next):
      return "queue \(q): chain \(head) goes on at descriptor \(next), outside its table"
    case .chainTooLong(let q, let head): return "queue \(q): chain \(head) is too long or loops"
    case .tooManyBytes(let q, let head):
      return "queue \(q): the buffers of chain \(head) sum up to 4 GiB or more"
    case .bufferUnmapped(let q, let head, let a, let n):
      return "queue \(q): chain \(head) names \(n) bytes at \(hex(a)), outside guest memory"
    case .readableAfterWritable(let q, let head):
      return "queue \(q): chain \(head) has a readable buffer after a writable one"
    case .indirectNotNegotiated(let q, let head):
      return "queue \(q): chain \(head) is indirect, which was not negotiated"
    case .nestedIndirect(let q, let head):
      return "queue \(q): chain \(head) has an indirect table inside another"
    case .indirectWithNext(let q, let head):
      return "queue \(q): chain \(head) has an indirect descriptor with a successor"
    case .indirectLength(let q, let head, let n):
      return "queue \(q): chain \(head) has an indirect table of \(n) bytes"
    case .indirectUnmapped(let q, let head, let a):
      return "queue \(q): chain \(head) has an indirect table at \(hex(a)), outside guest memory"
    }
  }
}
