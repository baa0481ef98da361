import CLinux
import Linux

/// The driver's half of a split virtqueue in guest memory, virtio 1.3 §2.7.
///
/// One thread uses it. Nothing here looks at what a device may not write.
package final class SplitRing {
  /// One descriptor's worth of a chain.
  package struct Segment: Equatable, Sendable {
    /// Guest-physical address.
    package var address: UInt64
    /// Bytes.
    package var length: UInt32
    /// The device writes it (`VIRTQ_DESC_F_WRITE`).
    package var deviceWrites: Bool
    /// Names guest memory for a chain.
    package init(_ address: UInt64, _ length: UInt32, deviceWrites: Bool = false) {
      self.address = address
      self.length = length
      self.deviceWrites = deviceWrites
    }
  }

  /// A chain that the device has given back.
  package struct Used: Equatable, Sendable {
    /// The head that ``SplitRing/add(_:)`` returned.
    package let head: UInt16
    /// Bytes that the device says it has written.
    package let length: UInt32
  }

  private enum Flag {
    static let next: UInt16 = 1
    static let write: UInt16 = 2
    static let indirect: UInt16 = 4
    static let noNotify: UInt16 = 1
  }

  /// Number of descriptors.
  package let size: UInt16
  /// Guest address of the descriptor table.
  package let descriptorTable: UInt64
  /// Guest address of the driver area.
  package let available: UInt64
  /// Guest address of the device area.
  package let used: UInt64
  /// `VIRTIO_F_INDIRECT_DESC` is in use: chains of several segments take one descriptor.
  package let indirect: Bool
  /// `VIRTIO_F_EVENT_IDX` is in use.
  package let eventIndex: Bool

  private let ram: GuestRAM
  private let pages: [GuestPages]
  private let descriptors: UnsafeMutableRawPointer
  private let avail: UnsafeMutableRawPointer
  private let usedRing: UnsafeMutableRawPointer
  private var free: [UInt16]
  private var chains: [[UInt16]]
  private var tables: [GuestPages?]
  private var nextAvailable: UInt16 = 0
  private var published: UInt16 = 0
  private var lastUsed: UInt16 = 0

  /// Lays a ring out in fresh guest pages.
  ///
  /// - Parameter size: a power of two, at most 1024 (virtio 1.3 §2.7 allows 32768).
  package init(
    _ ram: GuestRAM, size: UInt16, indirect: Bool, eventIndex: Bool
  ) throws(GuestError) {
    self.ram = ram
    self.size = size
    self.indirect = indirect
    self.eventIndex = eventIndex
    let count = Int(size)
    let parts = [
      try ram.allocate(bytes: 16 * count), try ram.allocate(bytes: 6 + 2 * count),
      try ram.allocate(bytes: 6 + 8 * count),
    ]
    for part in parts { ram.fill(part, with: 0) }
    pages = parts
    descriptorTable = parts[0].start
    available = parts[1].start
    used = parts[2].start
    descriptors = ram.pointer(descriptorTable)
    avail = ram.pointer(available)
    usedRing = ram.pointer(used)
    free = (0..<size).reversed()
    chains = Array(repeating: [], count: count)
    tables = Array(repeating: nil, count: count)
  }

  deinit {
    for part in pages { ram.free(part) }
    for table in tables { if let table { ram.free(table) } }
  }

  /// Descriptors that no chain uses.
  package var room: Int { free.count }
  /// Chains given to the device and not given back yet.
  package var inFlight: Int { Int(nextAvailable &- lastUsed) }

  /// Whether a chain of this many segments would fit now.
  package func fits(_ segments: Int) -> Bool {
    free.count >= (indirect && segments > 1 ? 1 : segments)
  }

  /// Offers a chain; the device sees it after ``publish()``.
  ///
  /// - Returns: the head that names the chain when it comes back.
  package func add(_ chain: [Segment]) throws(GuestError) -> UInt16 {
    guard !chain.isEmpty, fits(chain.count), chain.count <= 256 else {
      throw .full("a chain of \(chain.count) descriptors")
    }
    let head: UInt16
    if indirect, chain.count > 1 {
      head = free.removeLast()
      let table = try table(for: head)
      write(chain, to: ram.pointer(table.start), at: (0..<UInt16(chain.count)).map { $0 })
      poke(head, address: table.start, length: UInt32(chain.count * 16), flags: Flag.indirect)
      chains[Int(head)] = [head]
    } else {
      let places = (0..<chain.count).map { _ in free.removeLast() }
      write(chain, to: descriptors, at: places)
      head = places[0]
      chains[Int(head)] = places
    }
    offer(head)
    return head
  }

  private func table(for head: UInt16) throws(GuestError) -> GuestPages {
    if let table = tables[Int(head)] { return table }
    let table = try ram.allocate(pages: 1)
    tables[Int(head)] = table
    return table
  }

  private func write(
    _ chain: [Segment], to table: UnsafeMutableRawPointer, at places: [UInt16]
  ) {
    for (i, segment) in chain.enumerated() {
      let last = i + 1 == chain.count
      let flags = (segment.deviceWrites ? Flag.write : 0) | (last ? 0 : Flag.next)
      Self.store(
        table + Int(places[i]) * 16, segment.address, segment.length, flags,
        last ? 0 : places[i + 1])
    }
  }

  private static func store(
    _ slot: UnsafeMutableRawPointer, _ address: UInt64, _ length: UInt32, _ flags: UInt16,
    _ next: UInt16
  ) {
    slot.storeBytes(of: address.littleEndian, as: UInt64.self)
    slot.storeBytes(of: length.littleEndian, toByteOffset: 8, as: UInt32.self)
    slot.storeBytes(of: flags.littleEndian, toByteOffset: 12, as: UInt16.self)
    slot.storeBytes(of: next.littleEndian, toByteOffset: 14, as: UInt16.self)
  }

  /// Writes one descriptor as it is, for drivers that misbehave.
  package func poke(
    _ index: UInt16, address: UInt64, length: UInt32, flags: UInt16, next: UInt16 = 0
  ) {
    Self.store(descriptors + Int(index) * 16, address, length, flags, next)
  }

  /// Puts a head in the available ring, whatever its descriptors hold.
  package func offer(_ head: UInt16) {
    let slot = Int(nextAvailable % size)
    avail.storeBytes(of: head.littleEndian, toByteOffset: 4 + 2 * slot, as: UInt16.self)
    nextAvailable &+= 1
  }

  /// Shows the device what was added.
  ///
  /// - Returns: whether the device asked to be kicked for it (§2.7.10).
  package func publish() -> Bool {
    let old = published
    ph_driver_store_release(avail + 2, nextAvailable.littleEndian)
    published = nextAvailable
    ph_driver_full_fence()
    guard eventIndex else {
      return ph_driver_load_acquire(usedRing) & Flag.noNotify == 0
    }
    let event = ph_driver_load_acquire(usedRing + 4 + 8 * Int(size))
    return nextAvailable &- event &- 1 < nextAvailable &- old
  }

  /// Sets the available index itself, for drivers that misbehave.
  package func forceAvailableIndex(_ index: UInt16) {
    ph_driver_store_release(avail + 2, index)
    nextAvailable = index
    published = index
  }

  /// Takes back the next chain, nil when the device has none ready.
  package func reap() throws(GuestError) -> Used? {
    let index = ph_driver_load_acquire(usedRing + 2)
    guard index != lastUsed else { return nil }
    guard index &- lastUsed <= nextAvailable &- lastUsed else {
      throw .violation("used index \(index) passes available index \(nextAvailable)")
    }
    let element = usedRing + 4 + 8 * Int(lastUsed % size)
    let head = UInt32(littleEndian: element.load(as: UInt32.self))
    let length = UInt32(littleEndian: element.load(fromByteOffset: 4, as: UInt32.self))
    lastUsed &+= 1
    guard head < UInt32(size), !chains[Int(head)].isEmpty else {
      throw .violation("the device used descriptor \(head), which was not offered")
    }
    free.append(contentsOf: chains[Int(head)].reversed())
    chains[Int(head)] = []
    return Used(head: UInt16(head), length: length)
  }

  /// Asks to be called for the next chain.
  ///
  /// - Returns: false if one came meanwhile: reap before waiting.
  package func armCall() -> Bool {
    if eventIndex {
      ph_driver_store_release(avail + 4 + 2 * Int(size), lastUsed.littleEndian)
    } else {
      ph_driver_store_release(avail, 0)
    }
    ph_driver_full_fence()
    return ph_driver_load_acquire(usedRing + 2) == lastUsed
  }

  /// Where the device is: its own used index.
  package var usedIndex: UInt16 { ph_driver_load_acquire(usedRing + 2) }
}
