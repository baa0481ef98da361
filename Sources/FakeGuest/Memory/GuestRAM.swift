import CLinux
import Glibc
import Linux

/// A guest's RAM: one file of shared memory, seen by the guest at one or more address ranges.
///
/// It is mapped whole and read-write, and handed out by the 4 KiB page.
package final class GuestRAM {
  /// A stretch of guest-physical addresses and where it lies in the file.
  package struct Region: Equatable, Sendable {
    /// First guest-physical address.
    package let guestAddress: UInt64
    /// Bytes.
    package let size: UInt64
    /// Bytes from the start of the file.
    package let fileOffset: UInt64
    /// Describes a region; ``GuestRAM`` trusts it.
    package init(guestAddress: UInt64, size: UInt64, fileOffset: UInt64) {
      self.guestAddress = guestAddress
      self.size = size
      self.fileOffset = fileOffset
    }
  }

  /// Where pages of one allocation lie.
  package enum Placement: Sendable {
    /// One run of guest addresses, aligned in bytes.
    case contiguous(alignment: UInt64 = 4096)
    /// Single pages all over the memory, the same ones for the same seed.
    case scattered(seed: UInt64)
  }

  /// The unit of allocation in bytes, also on huge pages.
  package static let page: UInt64 = 4096

  /// The file's descriptor.
  package let fd: SharedFD
  /// Sorted by guest address.
  package let regions: [Region]
  /// The file's size in bytes.
  package let size: UInt64
  private let mapping: Mapping
  private var taken: [Bool]

  /// Makes a memfd of its own, sealed as QEMU seals memory-backend-memfd.
  ///
  /// - Parameters:
  ///   - size: bytes, a multiple of the page size.
  ///   - regions: what the guest sees of it; the whole file at address 0 if empty.
  ///   - seals: set after creation.
  ///   - hugePageSize: 0, or bytes of a huge page such as 2 MiB.
  package init(
    size: UInt64, regions: [Region] = [], seals: Seals = [.grow, .shrink, .seal],
    hugePageSize: UInt64 = 0
  ) throws(GuestError) {
    let bytes = Int(clamping: size)
    fd = SharedFD(
      try doing("guest RAM of \(size) bytes") { () throws(Errno) in
        try MemFD.create("guest-ram", size: bytes, hugePageSize: hugePageSize, seals: seals)
      })
    let raw = fd.raw
    mapping = try doing("guest RAM") { () throws(Errno) in
      // Tests truncate it, and look at what the device makes of that.
      try Mapping(fd: raw, offset: 0, count: bytes, writable: true, guarded: true)
    }
    self.size = size
    self.regions =
      regions.isEmpty ? [Region(guestAddress: 0, size: size, fileOffset: 0)] : regions
    taken = [Bool](repeating: false, count: Int(clamping: size / Self.page))
    reserveWhatIsNotRAM()
  }

  /// Maps the RAM of a guest that somebody else made, for example QEMU.
  package init(adopting file: consuming OwnedFD, regions: [Region]) throws(GuestError) {
    fd = SharedFD(file)
    let raw = fd.raw
    let facts = try doing("guest RAM") { () throws(Errno) in try FileFacts(of: raw) }
    mapping = try doing("guest RAM") { () throws(Errno) in
      try Mapping(fd: raw, offset: 0, count: Int(clamping: facts.size), writable: true)
    }
    size = facts.size
    self.regions = regions
    taken = [Bool](repeating: false, count: Int(clamping: size / Self.page))
    reserveWhatIsNotRAM()
  }

  /// The regions of a PC with `size` bytes: what QEMU shares of one memfd, the VGA hole left out.
  package static func pcRegions(size: UInt64) -> [Region] {
    [
      Region(guestAddress: 0, size: 0xc0000, fileOffset: 0),
      Region(guestAddress: 0xe0000, size: 0x10000, fileOffset: 0xe0000),
      Region(guestAddress: 0x100000, size: size - 0x100000, fileOffset: 0x100000),
    ]
  }

  /// The regions of a guest with memory below and above 4 GiB, half of `size` bytes in each.
  package static func halves(size: UInt64) -> [Region] {
    [
      Region(guestAddress: 0, size: size / 2, fileOffset: 0),
      Region(guestAddress: 1 << 32, size: size / 2, fileOffset: size / 2),
    ]
  }

  /// Address 0 is never handed out, nor are the ROM shadows and VGA window of a PC.
  private func reserveWhatIsNotRAM() {
    for index in taken.indices {
      let address = guestAddress(ofFile: UInt64(index) * Self.page)
      guard let address, address != 0 else {
        taken[index] = true
        continue
      }
      if address >= 0xa0000, address < 0x100000 { taken[index] = true }
    }
  }

  /// Where a place in the file is seen by the guest, nil in a hole.
  package func guestAddress(ofFile offset: UInt64) -> UInt64? {
    for region in regions
    where offset >= region.fileOffset && offset - region.fileOffset < region.size {
      return region.guestAddress + (offset - region.fileOffset)
    }
    return nil
  }

  /// Where a guest address lies in the file, nil outside the RAM.
  package func fileOffset(ofGuest address: UInt64) -> UInt64? {
    for region in regions
    where address >= region.guestAddress && address - region.guestAddress < region.size {
      return region.fileOffset + (address - region.guestAddress)
    }
    return nil
  }

  /// Our address of guest memory; the caller stays inside the run that it allocated.
  package func pointer(_ address: UInt64) -> UnsafeMutableRawPointer {
    guard let offset = fileOffset(ofGuest: address) else {
      preconditionFailure("guest address 0x\(String(address, radix: 16)) is not RAM")
    }
    return mapping.base + Int(offset)
  }

  /// The whole file's bytes.
  package var bytes: UnsafeMutableRawBufferPointer { mapping.bytes }

  /// How many pages are free.
  package var freePages: Int { taken.reduce(0) { $0 + ($1 ? 0 : 1) } }

  /// Takes pages out of the RAM.
  ///
  /// - Throws: ``GuestError/full(_:)`` when there are not enough of them.
  package func allocate(
    pages count: Int, _ placement: Placement = .contiguous()
  ) throws(GuestError) -> GuestPages {
    switch placement {
    case .contiguous(let alignment):
      return try allocateRun(count, alignment: max(alignment, Self.page))
    case .scattered(let seed): return try allocateScattered(count, seed: seed)
    }
  }

  /// Takes pages for a number of bytes.
  package func allocate(
    bytes: Int, _ placement: Placement = .contiguous()
  ) throws(GuestError) -> GuestPages {
    try allocate(pages: (bytes + 4095) / 4096, placement)
  }

  /// Gives pages back.
  package func free(_ pages: GuestPages) {
    for address in pages.addresses {
      guard let offset = fileOffset(ofGuest: address) else { continue }
      taken[Int(offset / Self.page)] = false
    }
  }

  private func allocateRun(_ count: Int, alignment: UInt64) throws(GuestError) -> GuestPages {
    // Addresses that old PCs use stay free for whoever wants them, if there is room above.
    for floor in [0x100000, 0] as [UInt64] {
      for region in regions {
        let from = max(region.guestAddress, floor)
        var address = (from + alignment - 1) / alignment * alignment
        let end = region.guestAddress + region.size
        while address + UInt64(count) * Self.page <= end {
          let first = Int((region.fileOffset + (address - region.guestAddress)) / Self.page)
          if let busy = (first..<(first + count)).last(where: { taken[$0] }) {
            let next = address + UInt64(busy - first + 1) * Self.page
            address = (next + alignment - 1) / alignment * alignment
            continue
          }
          for index in first..<(first + count) { taken[index] = true }
          let start = address
          return GuestPages((0..<count).map { start + UInt64($0) * Self.page })
        }
      }
    }
    throw .full("\(count) contiguous pages")
  }

  private func allocateScattered(_ count: Int, seed: UInt64) throws(GuestError) -> GuestPages {
    var free = taken.indices.filter { !taken[$0] }
    guard free.count >= count else { throw .full("\(count) pages") }
    var random = SeededRandom(seed: seed)
    free.shuffle(using: &random)
    var addresses: [UInt64] = []
    addresses.reserveCapacity(count)
    for index in free.prefix(count) {
      guard let address = guestAddress(ofFile: UInt64(index) * Self.page) else { continue }
      taken[index] = true
      addresses.append(address)
    }
    return GuestPages(addresses)
  }
}

/// Pages of a guest in the order in which they hold something.
package struct GuestPages: Sendable {
  /// Guest-physical address of each 4 KiB page.
  package let addresses: [UInt64]
  /// Names pages.
  package init(_ addresses: [UInt64]) { self.addresses = addresses }
  /// Address of the first page.
  package var start: UInt64 { addresses.first ?? 0 }
  /// Bytes in all pages.
  package var byteCount: Int { addresses.count * 4096 }

  /// What a driver would list for the device.
  ///
  /// - Parameter merged: neighbours become one entry; otherwise one entry a page.
  package func entries(merged: Bool = true) -> [MemoryEntry] {
    var entries: [MemoryEntry] = []
    for address in addresses {
      if merged, let last = entries.last, last.address + UInt64(last.length) == address {
        entries[entries.count - 1].length += 4096
      } else {
        entries.append(MemoryEntry(address: address, length: 4096))
      }
    }
    return entries
  }
}

/// One run of guest memory, `struct virtio_gpu_mem_entry`.
package struct MemoryEntry: Equatable, Sendable {
  /// Guest-physical address.
  package var address: UInt64
  /// Bytes.
  package var length: UInt32
  /// Names a run; nothing is checked, so that tests can lie.
  package init(address: UInt64, length: UInt32) {
    self.address = address
    self.length = length
  }
}

/// splitmix64: the same numbers for the same seed, everywhere.
package struct SeededRandom: RandomNumberGenerator, Sendable {
  private var state: UInt64
  /// Starts from a seed, which a test prints.
  package init(seed: UInt64) { state = seed }
  /// The next 64 bits.
  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }
}
