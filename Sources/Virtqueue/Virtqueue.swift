import GuestMemory
import Synchronization

/// The device's side of a split virtqueue (virtio 1.3, 2.7).
///
/// The driver writes the ring at any time and may write anything: every index, descriptor and
/// table is copied once and judged by the copy. After a ``RingError`` the ring stays dead.
/// It belongs to one thread.
public final class Virtqueue {
  /// How many descriptors one chain may have, where its indirect table allows more than the
  /// queue's size. Linux sends such tables; QEMU has the same bound.
  public static let maxChainLength = 1024

  /// Which queue of the device this is, from 0.
  public let index: Int
  /// Number of descriptors, a power of two.
  public let size: UInt16
  /// The available index that ``pop()`` looks at next: what `VHOST_USER_GET_VRING_BASE` asks for.
  public private(set) var nextAvailable: UInt16
  /// The error that ended this ring.
  public private(set) var failure: RingError?
  /// How many chains were popped and not pushed yet.
  public private(set) var inFlight = 0

  private let addresses: RingAddresses
  private let memory: GuestMemory
  private let indirect: Bool
  private let eventIndex: Bool
  private let identity: UInt64
  private var ring: RingMemory
  private var epoch: UInt64
  private var nextUsed: UInt16
  private var pushedSinceNotify = 0
  private var pool: [DescriptorChain] = []
  private static let identities = Atomic<UInt64>(0)

  /// Takes up a ring that a driver has set up.
  ///
  /// - Parameters:
  ///   - index: the queue's number, for messages.
  ///   - size: number of descriptors.
  ///   - addresses: the parts, in the front-end's addresses; resolved again when the table of
  ///     guest memory changes.
  ///   - memory: the guest's memory.
  ///   - nextAvailable: where to go on, as `VHOST_USER_SET_VRING_BASE` says.
  ///   - indirect: `VIRTIO_F_INDIRECT_DESC` was negotiated.
  ///   - eventIndex: `VIRTIO_F_EVENT_IDX` was negotiated.
  /// - Throws: ``RingError`` where the size, an address or an alignment is wrong.
  public init(
    index: Int, size: UInt16, addresses: RingAddresses, memory: GuestMemory,
    nextAvailable: UInt16 = 0, indirect: Bool, eventIndex: Bool
  ) throws(RingError) {
    guard size.nonzeroBitCount == 1 else { throw .size(queue: index, size: size) }
    self.index = index
    self.size = size
    self.addresses = addresses
    self.memory = memory
    self.nextAvailable = nextAvailable
    self.indirect = indirect
    self.eventIndex = eventIndex
    identity = Self.identities.add(1, ordering: .relaxed).newValue
    ring = try RingMemory(queue: index, size: size, addresses, eventIndex: eventIndex, in: memory)
    epoch = memory.epoch
    nextUsed = ring.usedIndex
    pool.reserveCapacity(Int(size))
    ring.setNoNotify(false)
    if eventIndex { ring.setAvailableEvent(nextAvailable) }
  }

  private func fail(_ error: RingError) -> RingError {
    failure = error
    return error
  }

  /// Finds the ring again after the table of guest memory changed.
  private func refresh() throws(RingError) {
    if let failure { throw failure }
    guard epoch != memory.epoch else { return }
    ring = try RingMemory(queue: index, size: size, addresses, eventIndex: eventIndex, in: memory)
    epoch = memory.epoch
  }

  /// Takes the next request.
  ///
  /// - Returns: nil when the driver has made nothing available.
  /// - Throws: what is wrong with the ring; ``RingError/unmapped(queue:_:address:)`` may pass,
  ///   any other error is for good.
  public func pop() throws(RingError) -> DescriptorChain? {
    try refresh()
    let available = ring.availableIndex
    guard available != nextAvailable else { return nil }
    guard available &- nextAvailable <= size else {
      throw fail(.availableJump(queue: index, from: nextAvailable, to: available))
    }
    guard inFlight < Int(size) else {
      throw fail(.tooManyInFlight(queue: index, size: size))
    }
    let head = ring.head(at: nextAvailable)
    guard head < size else { throw fail(.headOutOfRange(queue: index, head: head)) }
    let chain = pool.popLast() ?? DescriptorChain(ring: identity)
    chain.head = head
    do throws(RingError) {
      try walk(chain)
    } catch {
      chain.reset()
      throw fail(error)
    }
    chain.isInFlight = true
    inFlight &+= 1
    nextAvailable &+= 1
    return chain
  }

  private func walk(_ chain: DescriptorChain) throws(RingError) {
    var current = chain.head
    for _ in 0..<size {
      let descriptor = ring.descriptor(current)
      if descriptor.has(Descriptor.indirect) { return try walkTable(descriptor, chain) }
      try append(descriptor, to: chain)
      guard descriptor.has(Descriptor.next) else { return }
      current = descriptor.next
      guard current < size else {
        throw .nextOutOfRange(queue: index, head: chain.head, next: current)
      }
    }
    throw .chainTooLong(queue: index, head: chain.head)
  }

  private func walkTable(_ table: Descriptor, _ chain: DescriptorChain) throws(RingError) {
    let head = chain.head
    guard indirect else { throw .indirectNotNegotiated(queue: index, head: head) }
    guard !table.has(Descriptor.next) else { throw .indirectWithNext(queue: index, head: head) }
    let entries = table.count / 16
    guard table.count % 16 == 0, entries > 0, entries <= UInt32(UInt16.max) + 1 else {
      throw .indirectLength(queue: index, head: head, count: table.count)
    }
    var current: UInt16 = 0
    for _ in 0..<min(Int(entries), max(Self.maxChainLength, Int(size))) {
      let (address, overflow) = table.address.addingReportingOverflow(UInt64(current) &* 16)
      guard !overflow, let raw = memory.pointer(guest: address, count: Descriptor.size) else {
        throw .indirectUnmapped(queue: index, head: head, address: address)
      }
      let descriptor = Descriptor(copying: raw)
      guard !descriptor.has(Descriptor.indirect) else {
        throw .nestedIndirect(queue: index, head: head)
      }
      try append(descriptor, to: chain)
      guard descriptor.has(Descriptor.next) else { return }
      current = descriptor.next
      guard UInt32(current) < entries else {
        throw .nextOutOfRange(queue: index, head: head, next: current)
      }
    }
    throw .chainTooLong(queue: index, head: head)
  }

  private func append(_ descriptor: Descriptor, to chain: DescriptorChain) throws(RingError) {
    let head = chain.head
    let count = Int(descriptor.count)
    guard chain.readableCount &+ chain.writableCount &+ count <= Int(UInt32.max) else {
      throw .tooManyBytes(queue: index, head: head)
    }
    let address = descriptor.address
    let size = UInt64(descriptor.count)
    let found: Bool
    if descriptor.has(Descriptor.write) {
      found = memory.fileRanges(guest: address, count: size, into: &chain.writable)
      chain.writableCount &+= count
    } else {
      guard chain.writableCount == 0 else {
        throw .readableAfterWritable(queue: index, head: head)
      }
      found = memory.fileRanges(guest: address, count: size, into: &chain.readable)
      chain.readableCount &+= count
    }
    guard found else {
      throw .bufferUnmapped(
        queue: index, head: head, address: address, count: descriptor.count)
    }
  }

  /// Answers a request and takes the chain back; call ``shouldNotify()`` after a batch.
  ///
  /// A chain of another ring, one that was pushed already, and any chain of a dead ring are
  /// ignored.
  ///
  /// - Parameters:
  ///   - chain: what ``pop()`` returned.
  ///   - written: bytes written from the start of its writable buffers.
  public func push(_ chain: DescriptorChain, written: UInt32) {
    guard chain.ring == identity, chain.isInFlight else { return }
    let count = min(written, UInt32(clamping: chain.writableCount))
    let head = chain.head
    chain.reset()
    pool.append(chain)
    inFlight &-= 1
    guard failure == nil else { return }
    // Where the ring is not mapped any more, its old pages are still held and take the answer.
    try? refresh()
    ring.setUsed(at: nextUsed, head: head, written: count)
    nextUsed &+= 1
    ring.usedIndex = nextUsed
    pushedSinceNotify &+= 1
  }

  /// Whether the driver wants an interrupt for what was pushed since this was asked last
  /// (virtio 1.3, 2.7.7 and 2.7.10).
  public func shouldNotify() -> Bool {
    let pushed = pushedSinceNotify
    guard pushed > 0, failure == nil else { return false }
    pushedSinceNotify = 0
    // The used index must be out before the driver's wish is read, or both sides may sleep.
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    guard eventIndex else { return !ring.wantsNoInterrupt }
    guard pushed <= Int(UInt16.max) else { return true }
    return nextUsed &- ring.usedEvent &- 1 < UInt16(pushed)
  }

  /// Asks the driver not to kick while its requests are being served anyway.
  ///
  /// With the event index there is nothing to do: it kicks once per ``enableNotifications()``.
  public func disableNotifications() {
    guard !eventIndex, failure == nil else { return }
    ring.setNoNotify(true)
  }

  /// Asks the driver to kick at its next request.
  ///
  /// - Returns: true if requests came meanwhile, for which no kick may come: serve them. False
  ///   for a ring that cannot be served, lest somebody tries for ever.
  public func enableNotifications() -> Bool {
    do throws(RingError) { try refresh() } catch { return false }
    if eventIndex { ring.setAvailableEvent(nextAvailable) } else { ring.setNoNotify(false) }
    atomicMemoryFence(ordering: .sequentiallyConsistent)
    return ring.availableIndex != nextAvailable
  }
}
