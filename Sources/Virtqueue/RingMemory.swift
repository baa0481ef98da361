import GuestMemory
import Synchronization

/// Where the driver put the three parts of a ring, in the front-end's addresses.
public struct RingAddresses: Equatable, Sendable {
  /// The descriptor table, 16 bytes aligned.
  public var descriptors: UInt64
  /// The available ring, 2 bytes aligned.
  public var available: UInt64
  /// The used ring, 4 bytes aligned.
  public var used: UInt64

  /// Names the three parts; nothing is checked yet.
  public init(descriptors: UInt64, available: UInt64, used: UInt64) {
    self.descriptors = descriptors
    self.available = available
    self.used = used
  }
}

/// `struct virtq_desc` (virtio 1.3, 2.7.5), copied out of guest memory.
struct Descriptor {
  let address: UInt64
  let count: UInt32
  let flags: UInt16
  let next: UInt16

  static let size: UInt64 = 16
  static let next: UInt16 = 1
  static let write: UInt16 = 2
  static let indirect: UInt16 = 4

  /// Reads each byte exactly once: the driver may be changing them.
  init(copying raw: UnsafeMutableRawPointer) {
    address = loadOnce(raw)
    let rest = loadOnce(raw + 8)
    count = UInt32(truncatingIfNeeded: rest)
    flags = UInt16(truncatingIfNeeded: rest >> 32)
    next = UInt16(truncatingIfNeeded: rest >> 48)
  }

  func has(_ flag: UInt16) -> Bool { flags & flag != 0 }
}

/// A little-endian word that somebody else may be writing; tables need not be aligned.
private func loadOnce(_ raw: UnsafeMutableRawPointer) -> UInt64 {
  if UInt(bitPattern: raw) % 8 == 0 {
    let word = raw.assumingMemoryBound(to: Atomic<UInt64>.self)
    return UInt64(littleEndian: word.pointee.load(ordering: .relaxed))
  }
  var value: UInt64 = 0
  for i in 0..<8 {
    let byte = (raw + i).assumingMemoryBound(to: Atomic<UInt8>.self)
    value |= UInt64(byte.pointee.load(ordering: .relaxed)) << UInt64(8 &* i)
  }
  return value
}

/// The mapped parts of a ring and the words in them (virtio 1.3, 2.7.4 to 2.7.8).
struct RingMemory {
  private let descriptors: UnsafeMutableRawPointer
  private let available: UnsafeMutableRawPointer
  private let used: UnsafeMutableRawPointer
  /// Keeps the parts mapped while this ring looks at them.
  private let files: (GuestFile, GuestFile, GuestFile)
  private let size: UInt16

  init(
    queue: Int, size: UInt16, _ addresses: RingAddresses, eventIndex: Bool, in memory: GuestMemory
  ) throws(RingError) {
    func part(
      _ part: RingError.Part, _ address: UInt64, alignment: UInt, count: UInt64
    ) throws(RingError) -> (UnsafeMutableRawPointer, GuestFile) {
      guard let found = memory.locate(user: address, count: count) else {
        throw .unmapped(queue: queue, part, address: address)
      }
      guard UInt(bitPattern: found.0) % alignment == 0 else {
        throw .misaligned(queue: queue, part, address: address)
      }
      return found
    }
    let n = UInt64(size)
    let event: UInt64 = eventIndex ? 2 : 0
    let d = try part(.descriptors, addresses.descriptors, alignment: 16, count: 16 * n)
    let a = try part(.available, addresses.available, alignment: 2, count: 4 + 2 * n + event)
    let u = try part(.used, addresses.used, alignment: 4, count: 4 + 8 * n + event)
    (descriptors, available, used) = (d.0, a.0, u.0)
    files = (d.1, a.1, u.1)
    self.size = size
  }

  private func word(_ raw: UnsafeMutableRawPointer) -> UnsafeMutablePointer<Atomic<UInt16>> {
    raw.assumingMemoryBound(to: Atomic<UInt16>.self)
  }

  private func slot(_ index: UInt16) -> Int { Int(index & (size &- 1)) }

  func descriptor(_ index: UInt16) -> Descriptor {
    Descriptor(copying: descriptors + 16 &* Int(index))
  }

  /// The driver's index; what it published before it is visible afterwards.
  var availableIndex: UInt16 {
    UInt16(littleEndian: word(available + 2).pointee.load(ordering: .acquiring))
  }

  /// `VIRTQ_AVAIL_F_NO_INTERRUPT`.
  var wantsNoInterrupt: Bool {
    UInt16(littleEndian: word(available).pointee.load(ordering: .relaxed)) & 1 != 0
  }

  func head(at index: UInt16) -> UInt16 {
    UInt16(
      littleEndian: word(available + 4 + 2 &* slot(index)).pointee.load(ordering: .relaxed))
  }

  /// The driver wants an interrupt once the used index passes this.
  var usedEvent: UInt16 {
    UInt16(
      littleEndian: word(available + 4 + 2 &* Int(size)).pointee.load(ordering: .relaxed))
  }

  var usedIndex: UInt16 {
    get { UInt16(littleEndian: word(used + 2).pointee.load(ordering: .relaxed)) }
    nonmutating set { word(used + 2).pointee.store(newValue.littleEndian, ordering: .releasing) }
  }

  /// `VIRTQ_USED_F_NO_NOTIFY`.
  func setNoNotify(_ on: Bool) {
    word(used).pointee.store(UInt16(on ? 1 : 0).littleEndian, ordering: .relaxed)
  }

  func setUsed(at index: UInt16, head: UInt16, written: UInt32) {
    let entry = used + 4 + 8 &* slot(index)
    entry.storeBytes(of: UInt32(head).littleEndian, as: UInt32.self)
    entry.storeBytes(of: written.littleEndian, toByteOffset: 4, as: UInt32.self)
  }

  /// The device wants a kick once the available index passes this.
  func setAvailableEvent(_ index: UInt16) {
    word(used + 4 + 8 &* Int(size)).pointee.store(index.littleEndian, ordering: .relaxed)
  }
}

extension GuestMemory {
  /// A part of a ring, with the file that keeps it mapped.
  fileprivate func locate(
    user address: UInt64, count: UInt64
  ) -> (UnsafeMutableRawPointer, GuestFile)? {
    guard let pointer = pointer(user: address, count: count) else { return nil }
    let entry = entries.first {
      address >= $0.region.userAddress && address &- $0.region.userAddress < $0.region.size
    }
    return entry.map { (pointer, $0.file) }
  }
}
