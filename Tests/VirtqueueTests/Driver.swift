import Glibc
import GuestMemory
import Linux
import Virtqueue

/// A guest of two regions that touch in guest addresses and lie apart in their memfd, and the
/// driver's side of one ring in it.
final class Driver {
  static let low: UInt64 = 0x10000
  static let regionSize: UInt64 = 0x40000
  static let high = low + regionSize
  static let end = high + regionSize
  static let userBase: UInt64 = 0x7f00_0000_0000

  let memory = GuestMemory()
  let fd: SharedFD
  let size: UInt16
  var addresses: RingAddresses
  var available: UInt16

  static let regions = [
    MemoryRegion(
      guestAddress: low, size: regionSize, userAddress: userBase + low, fileOffset: 0),
    MemoryRegion(
      guestAddress: high, size: regionSize, userAddress: userBase + high, fileOffset: 0x80000),
  ]

  /// Where the parts of the ring are, as guest addresses.
  static let descriptorTable = low
  static let availableRing = low + 0x8000
  static let usedRing = low + 0xa000
  /// Free for buffers.
  static let buffers = low + 0x10000

  init(size: UInt16 = 8, start: UInt16 = 0) throws {
    fd = SharedFD(try MemFD.create("guest", size: 0x100000))
    self.size = size
    available = start
    addresses = RingAddresses(
      descriptors: Self.userBase + Self.descriptorTable,
      available: Self.userBase + Self.availableRing, used: Self.userBase + Self.usedRing)
    for region in Self.regions { try memory.add(region, fd) }
    setAvailableIndex(start)
    store(start, at: Self.usedRing + 2)
  }

  func queue(indirect: Bool = true, eventIndex: Bool = false) throws -> Virtqueue {
    try Virtqueue(
      index: 3, size: size, addresses: addresses, memory: memory, nextAvailable: available,
      indirect: indirect, eventIndex: eventIndex)
  }

  func store<T: FixedWidthInteger>(_ value: T, at address: UInt64) {
    let count = UInt64(MemoryLayout<T>.size)
    memory.pointer(guest: address, count: count)?.storeBytes(of: value.littleEndian, as: T.self)
  }

  func load<T: FixedWidthInteger>(_ type: T.Type, at address: UInt64) -> T {
    let count = UInt64(MemoryLayout<T>.size)
    guard let raw = memory.pointer(guest: address, count: count) else { return 0 }
    return T(littleEndian: raw.loadUnaligned(as: T.self))
  }

  func describe(
    _ index: UInt16, _ address: UInt64, _ count: UInt32, _ flags: UInt16 = 0, next: UInt16 = 0,
    table: UInt64 = descriptorTable
  ) {
    let entry = table + 16 * UInt64(index)
    store(address, at: entry)
    store(count, at: entry + 8)
    store(flags, at: entry + 12)
    store(next, at: entry + 14)
  }

  func offer(_ heads: UInt16...) {
    for head in heads {
      store(head, at: Self.availableRing + 4 + 2 * UInt64(available % size))
      available &+= 1
    }
    setAvailableIndex(available)
  }

  func setAvailableIndex(_ value: UInt16) { store(value, at: Self.availableRing + 2) }
  /// Sets the available index behind the back of the memory table.
  func fileIndex(_ value: UInt16) {
    guard let file = try? GuestFile(try fd.duplicate()) else { return }
    file.pointer(at: 0x8002, count: 2)?.storeBytes(of: value.littleEndian, as: UInt16.self)
  }
  func setAvailableFlags(_ value: UInt16) { store(value, at: Self.availableRing) }
  func setUsedEvent(_ value: UInt16) {
    store(value, at: Self.availableRing + 4 + 2 * UInt64(size))
  }

  var usedIndex: UInt16 { load(UInt16.self, at: Self.usedRing + 2) }
  var usedFlags: UInt16 { load(UInt16.self, at: Self.usedRing) }
  var availableEvent: UInt16 { load(UInt16.self, at: Self.usedRing + 4 + 8 * UInt64(size)) }
  func used(_ index: UInt16) -> (head: UInt32, written: UInt32) {
    let entry = Self.usedRing + 4 + 8 * UInt64(index % size)
    return (load(UInt32.self, at: entry), load(UInt32.self, at: entry + 4))
  }

  func fill(_ address: UInt64, _ bytes: [UInt8]) {
    for (i, byte) in bytes.enumerated() { store(byte, at: address + UInt64(i)) }
  }

  func bytes(_ address: UInt64, _ count: Int) -> [UInt8] {
    (0..<UInt64(count)).map { load(UInt8.self, at: address + $0) }
  }
}

/// Descriptor flags of virtio 1.3, 2.7.5.
enum Flag {
  static let next: UInt16 = 1
  static let write: UInt16 = 2
  static let indirect: UInt16 = 4
}

extension DescriptorChain {
  /// The whole request.
  var request: [UInt8] {
    var bytes = [UInt8](repeating: 0, count: readableCount)
    _ = bytes.withUnsafeMutableBytes { read(into: $0) }
    return bytes
  }

  func answer(_ bytes: [UInt8], offset: Int = 0) -> Int {
    bytes.withUnsafeBytes { write($0, offset: offset) }
  }
}

/// Random numbers that a printed seed brings back (xorshift64*).
struct Seeded: RandomNumberGenerator {
  private var state: UInt64
  let seed: UInt64

  init(_ seed: UInt64 = UInt64.random(in: 1...UInt64.max)) {
    self.seed = seed
    state = seed | 1
  }

  mutating func next() -> UInt64 {
    state ^= state >> 12
    state ^= state << 25
    state ^= state >> 27
    return state &* 0x2545_F491_4F6C_DD1D
  }
}
