import CLinux
import FakeGuest
import Glibc
import GuestMemory
import Linux

/// What the witness costs against the bytes that are on offer, beside the bare calls.
struct WitnessCosts {
  let rounds: Int
  let givesRatios: Bool

  private static let sizes: [UInt64] = [8, 64, 512, 1024, 4096]

  func run(into directory: String) throws(GuestError) {
    var table = Table(
      title: "Witness: microseconds against bytes on offer",
      columns: [
        "MiB", "detector", "a look", "after a discard: fill, arm, look", "arm anew",
        "bare PAGEMAP_SCAN", "bare MADV_POPULATE_READ",
      ] + (givesRatios ? ["look to bare", "arm to bare"] : []))
    for size in Self.sizes {
      guard Machine.availableMemory > (size + 1024) << 20 else {
        print("\(size) MiB: left out, so much memory is not free")
        continue
      }
      for detector in Detector.allCases {
        do throws(WitnessError) {
          table.rows.append(try measure(size, detector))
        } catch { print("\(size) MiB, \(detector): \(error)") }
      }
    }
    let text = table.markdown(Machine.header + ["medians of \(rounds) runs; one run of pages"])
    try save(text, as: "\(directory)/witness.md")
    print(text)
  }

  private func measure(_ mebibytes: UInt64, _ detector: Detector) throws(WitnessError) -> [String] {
    let bytes = mebibytes << 20
    let file: GuestFile
    let map: OwnedFD
    do throws(Errno) {
      file = try GuestFile(
        try MemFD.create("bench-guest", size: Int(bytes), seals: [.shrink, .grow]))
      try file.populate(offset: 0, count: bytes)
      map = try OwnedFD.open("/proc/self/pagemap", O_RDONLY)
    } catch { throw .mapping(error) }
    let span = [PageSpan(offset: 0, count: bytes)]
    // The two witnesses of a file exclude each other's memory, not each other.
    var arms: [Double] = []
    var populates: [Double] = []
    for _ in 0..<min(rounds, 5) {
      let fresh = try WitnessKeeper(detector: detector).witness(for: file)
      let pages = try fresh.pages(span)
      arms.append(try cost { () throws(WitnessError) in try fresh.arm(pages) { _ in } })
      populates.append(barePopulate(file.fd.raw, Int(bytes)))
    }
    let keeper = try WitnessKeeper(detector: detector)
    let witness = try keeper.witness(for: file)
    let pages = try witness.pages(span)
    try witness.export(pages)
    try witness.fill(pages, of: file)
    try witness.arm(pages) { _ in }
    var looks: [Double] = []
    var scans: [Double] = []
    var again: [Double] = []
    for round in 0..<rounds {
      looks.append(
        try cost { () throws(WitnessError) in _ = try witness.missing(in: pages) })
      scans.append(bareScan(map.raw, witness, bytes))
      let hole = UInt64(round) * 4096 % bytes
      do throws(Errno) { try MemFD.punchHole(file.fd.raw, offset: hole, count: 4096) } catch {
        throw .filling(offset: hole, error)
      }
      again.append(
        try cost { () throws(WitnessError) in
          try witness.fill(pages, of: file)
          try witness.arm(pages) { _ in }
          _ = try witness.missing(in: pages)
        })
    }
    witness.unexport(pages)
    let values = [looks, again, arms, scans, populates].map { median($0) ?? 0 }
    return ["\(mebibytes)", "\(detector)"] + values.map { decimal($0 / 1000, 1) }
      + (givesRatios
        ? [(values[0], values[3]), (values[2], values[4])].map {
          decimal($0 / max($1, 1), 2) + "x"
        } : [])
  }

  private func cost(_ body: () throws(WitnessError) -> Void) throws(WitnessError) -> Double {
    let start = Clock.now
    try body()
    return Double(Clock.now - start)
  }

  /// One ioctl over the same entries, nothing missing.
  private func bareScan(_ map: CInt, _ witness: Witness, _ bytes: UInt64) -> Double {
    var region = ph_page_region()
    var walked: UInt64 = 0
    let base = UInt64(UInt(bitPattern: witness.base))
    let start = Clock.now
    _ = ph_pagemap_scan_absent(map, base, base + bytes, &region, 1, &walked)
    return Double(Clock.now - start)
  }

  /// The page table entries of a plain mapping in one call.
  private func barePopulate(_ file: CInt, _ bytes: Int) -> Double {
    guard let base = mmap(nil, bytes, PROT_READ, MAP_SHARED, file, 0), base != MAP_FAILED else {
      return 0
    }
    defer { munmap(base, bytes) }
    let populateRead: CInt = 22
    let start = Clock.now
    _ = madvise(base, bytes, populateRead)
    return Double(Clock.now - start)
  }
}
