import FakeGuest
import Glibc
import GuestMemory
import Linux
import Testing

/// The machine's memory as sysfs has it: nodes, and blocks that can be taken away.
enum MemoryBlocks {
  private static let folder = "/sys/devices/system/memory"

  /// How many nodes have memory.
  static var nodes: Int {
    let names = (try? Folder.names(in: "/sys/devices/system/node")) ?? []
    return names.count { $0.hasPrefix("node") && Int($0.dropFirst(4)) != nil }
  }

  /// Blocks in ZONE_MOVABLE, such as those of DIMMs that came online as movable, from which the
  /// kernel can move everything; none for who is not root.
  static var movable: Set<UInt64> {
    let names = (try? Folder.names(in: folder)) ?? []
    return Set(
      names.compactMap { name in
        guard name.hasPrefix("memory"), let number = UInt64(name.dropFirst(6)),
          access("\(folder)/\(name)/state", W_OK) == 0,
          text("\(name)/valid_zones") == "Movable"
        else { return nil }
        return number
      })
  }

  private static func text(_ name: String) -> String? {
    guard let bytes = try? WholeFile.read("\(folder)/\(name)") else { return nil }
    return String(decoding: bytes.prefix { $0 != 10 }, as: UTF8.self)
  }

  /// The blocks that some pages of a guest lie in: their frame numbers in the page map, which root
  /// alone may read.
  static func holding(_ span: PageSpan, of ram: SharedRAM) throws -> Set<UInt64> {
    let size = try #require(text("block_size_bytes").flatMap { UInt64($0, radix: 16) })
    let map = try OwnedFD.open("/proc/self/pagemap", O_RDONLY)
    let base = try #require(ram.file.pointer(at: span.offset, count: span.count))
    var entries = [UInt64](repeating: 0, count: Int(span.count / 4096))
    let bytes = entries.count * 8
    let place = off_t(UInt(bitPattern: base) / 4096 * 8)
    try #require(pread(map.raw, &entries, bytes, place) == bytes)
    let frames = entries.map { $0 & (1 << 55 - 1) }
    try #require(!frames.contains(0), "a page that is not mapped, or no right to see where it is")
    return Set(frames.map { $0 * 4096 / size })
  }

  /// Takes a block away or gives it back.
  ///
  /// - Returns: whether the kernel did.
  @discardableResult
  static func set(_ block: UInt64, _ state: String) -> Bool {
    guard let file = try? OwnedFD.open("\(folder)/memory\(block)/state", O_WRONLY) else {
      return false
    }
    return write(file.raw, state, state.utf8.count) > 0
  }
}
