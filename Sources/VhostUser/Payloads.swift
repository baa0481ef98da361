import GuestMemory
import Virtqueue

/// A single 64-bit word: features, acks, counts, status.
package struct WordPayload: Equatable, Sendable {
  package static let size = 8
  package var value: UInt64
  package init(_ value: UInt64) { self.value = value }

  package init?(_ payload: [UInt8]) {
    guard payload.count == Self.size else { return nil }
    value = WireReader(payload).u64(0)
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u64(value)
    return writer.bytes
  }
}

/// "A vring state description": index at 0, num at 4.
package struct VringState: Equatable, Sendable {
  package static let size = 8
  package var index: UInt32
  package var num: UInt32

  package init(index: UInt32, num: UInt32) {
    self.index = index
    self.num = num
  }

  package init?(_ payload: [UInt8]) {
    guard payload.count == Self.size else { return nil }
    let reader = WireReader(payload)
    self.init(index: reader.u32(0), num: reader.u32(4))
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u32(index)
    writer.u32(num)
    return writer.bytes
  }
}

/// "A vring address description": index 0, flags 4, descriptors 8, used 16, available 24, log 32.
package struct VringAddress: Equatable, Sendable {
  package static let size = 40
  package var index: UInt32
  package var flags: UInt32
  package var addresses: RingAddresses
  package var log: UInt64

  package init(index: UInt32, flags: UInt32 = 0, _ addresses: RingAddresses, log: UInt64 = 0) {
    self.index = index
    self.flags = flags
    self.addresses = addresses
    self.log = log
  }

  package init?(_ payload: [UInt8]) {
    guard payload.count == Self.size else { return nil }
    let reader = WireReader(payload)
    self.init(
      index: reader.u32(0), flags: reader.u32(4),
      RingAddresses(descriptors: reader.u64(8), available: reader.u64(24), used: reader.u64(16)),
      log: reader.u64(32))
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u32(index)
    writer.u32(flags)
    writer.u64(addresses.descriptors)
    writer.u64(addresses.used)
    writer.u64(addresses.available)
    writer.u64(log)
    return writer.bytes
  }
}

/// Index and "no descriptor" flag of SET_VRING_KICK, CALL and ERR.
package struct VringDescriptor: Equatable, Sendable {
  package static let size = 8
  package static let noDescriptor: UInt64 = 1 << 8
  package var index: UInt32
  package var hasDescriptor: Bool

  package init(index: UInt32, hasDescriptor: Bool = true) {
    self.index = index
    self.hasDescriptor = hasDescriptor
  }

  package init?(_ payload: [UInt8]) {
    guard let word = WordPayload(payload)?.value, word <= 0x1ff else { return nil }
    self.init(index: UInt32(word & 0xff), hasDescriptor: word & Self.noDescriptor == 0)
  }

  package var bytes: [UInt8] {
    WordPayload(UInt64(index & 0xff) | (hasDescriptor ? 0 : Self.noDescriptor)).bytes
  }
}

/// "Memory region description": guest address 0, size 8, user address 16, mmap offset 24.
extension MemoryRegion {
  package static let wireSize = 32

  package init(_ reader: WireReader, at offset: Int) {
    self.init(
      guestAddress: reader.u64(offset), size: reader.u64(offset &+ 8),
      userAddress: reader.u64(offset &+ 16), fileOffset: reader.u64(offset &+ 24))
  }

  package func encode(into writer: inout WireWriter) {
    writer.u64(guestAddress)
    writer.u64(size)
    writer.u64(userAddress)
    writer.u64(fileOffset)
  }
}

/// "Multiple memory regions description": count 0, padding 4, regions from 8.
package struct MemoryTable: Equatable, Sendable {
  package var regions: [MemoryRegion]
  package init(_ regions: [MemoryRegion]) { self.regions = regions }

  package init?(_ payload: [UInt8]) {
    let reader = WireReader(payload)
    let count = Int(reader.u32(0))
    guard count <= VhostUserMessage.maxFDs,
      payload.count == 8 + count * MemoryRegion.wireSize
    else { return nil }
    regions = (0..<count).map { MemoryRegion(reader, at: 8 + $0 * MemoryRegion.wireSize) }
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u32(UInt32(regions.count))
    writer.u32(0)
    for region in regions { region.encode(into: &writer) }
    return writer.bytes
  }
}

/// "Single memory region description": padding 0, region 8.
package struct SingleRegion: Equatable, Sendable {
  package static let size = 40
  package var region: MemoryRegion
  package init(_ region: MemoryRegion) { self.region = region }

  package init?(_ payload: [UInt8]) {
    guard payload.count == Self.size else { return nil }
    region = MemoryRegion(WireReader(payload), at: 8)
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u64(0)
    region.encode(into: &writer)
    return writer.bytes
  }
}

/// "Virtio device config space": offset 0, size 4, flags 8, contents from 12.
package struct ConfigPayload: Equatable, Sendable {
  package static let headerSize = 12
  /// `VHOST_USER_MAX_CONFIG_SIZE`.
  package static let maxCount: UInt32 = 256
  package var offset: UInt32
  package var flags: UInt32
  package var contents: [UInt8]

  package init(offset: UInt32, flags: UInt32 = 0, contents: [UInt8]) {
    self.offset = offset
    self.flags = flags
    self.contents = contents
  }

  package init?(_ payload: [UInt8]) {
    let reader = WireReader(payload)
    let count = reader.u32(4)
    guard count <= Self.maxCount, payload.count == Self.headerSize + Int(count),
      !reader.u32(0).addingReportingOverflow(count).overflow
    else { return nil }
    self.init(
      offset: reader.u32(0), flags: reader.u32(8),
      contents: Array(payload[Self.headerSize...]))
  }

  package var bytes: [UInt8] {
    var writer = WireWriter()
    writer.u32(offset)
    writer.u32(UInt32(contents.count))
    writer.u32(flags)
    writer.raw(contents)
    return writer.bytes
  }
}
