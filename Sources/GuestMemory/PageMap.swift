import CLinux
import Glibc
import Linux

/// /proc/self/pagemap: which pages of this process have page table entries.
final class PageMap {
  /// A run of addresses without entries.
  typealias Region = ph_page_region

  private let fd: OwnedFD
  private let usesScan: Bool
  private static let maxRegions = 512
  private let regions: UnsafeMutablePointer<Region>
  private let entries: UnsafeMutablePointer<UInt64>
  private let page = UInt64(pageSize)

  /// Opens it.
  ///
  /// - Parameter usesScan: ask with `PAGEMAP_SCAN` instead of reading the entries.
  init(usesScan: Bool) throws(WitnessError) {
    do throws(Errno) {
      fd = try OwnedFD.open("/proc/self/pagemap", O_RDONLY)
    } catch { throw .noPageMap(error) }
    self.usesScan = usesScan
    regions = .allocate(capacity: Self.maxRegions)
    entries = .allocate(capacity: Self.maxRegions)
    try probe()
  }

  deinit {
    regions.deallocate()
    entries.deallocate()
  }

  private func probe() throws(WitnessError) {
    let address = UInt64(UInt(bitPattern: regions)) & ~(page &- 1)
    do throws(WitnessError) {
      _ = try absent(from: address, to: address &+ page)
    } catch {
      guard usesScan, case .scanning(let errno) = error else { throw error }
      throw .noPageMapScan(errno)
    }
  }

  /// Finds the runs without entries in a range of addresses.
  ///
  /// The regions are valid until the next call. `walked` falls short of `end` when there were
  /// more than fit.
  func absent(
    from start: UInt64, to end: UInt64
  ) throws(WitnessError) -> (regions: UnsafeBufferPointer<Region>, walked: UInt64) {
    let (count, walked) = try usesScan ? scan(start, end) : read(start, end)
    guard walked > start else { throw .scanning(Errno(EIO, "ioctl(PAGEMAP_SCAN)")) }
    return (UnsafeBufferPointer(start: regions, count: count), walked)
  }

  private func scan(
    _ start: UInt64, _ end: UInt64
  ) throws(WitnessError) -> (count: Int, walked: UInt64) {
    var walked: UInt64 = 0
    let r = ph_pagemap_scan_absent(
      fd.raw, start, end, regions, CInt(Self.maxRegions), &walked)
    guard r >= 0 else { throw .scanning(Errno(-r, "ioctl(PAGEMAP_SCAN)")) }
    return (Int(r), walked)
  }

  private func read(
    _ start: UInt64, _ end: UInt64
  ) throws(WitnessError) -> (count: Int, walked: UInt64) {
    let wanted = min((end &- start) / page, UInt64(Self.maxRegions))
    let r = ph_pagemap_read(fd.raw, start, entries, CInt(wanted))
    guard r >= 0 else { throw .scanning(Errno(-r, "pread(/proc/self/pagemap)")) }
    var count = 0
    var at = start
    for index in 0..<Int(r) {
      defer { at &+= page }
      guard entries[index] & ph_PAGEMAP_PRESENT == 0 else { continue }
      if count > 0, regions[count - 1].end == at {
        regions[count - 1].end = at &+ page
      } else {
        regions[count] = Region(start: at, end: at &+ page, categories: 0)
        count += 1
      }
    }
    return (count, at)
  }
}
