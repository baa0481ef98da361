import Buffers
import Glibc
import GuestMemory
import Linux
import Pixels
import Testing

/// Why there can be no buffers over guest pages here, nil if there can.
let udmabufProblem: CopyReason? = {
  guard WitnessKeeper.isUsable else { return .noDevice }
  do throws(CopyReason) {
    _ = try UdmabufDevice.open()
    return nil
  } catch { return error }
}()

/// A picture of whole pages that lies in guest RAM, and its buffer.
final class ShownPicture {
  let ram: SharedRAM
  let keeper: WitnessKeeper
  let store: BufferStore
  let ranges: [FileRange]
  let layout: PixelLayout

  /// Guest RAM with a picture in some runs of its pages.
  convenience init(
    _ detector: Detector, pages: UInt64, runs: [(page: UInt64, count: UInt64)],
    hugePageSize: UInt64 = 0
  ) throws {
    let unit = max(hugePageSize, 4096)
    try self.init(
      detector, pages: pages, pieces: runs.map { ($0.page * unit, $0.count * unit) },
      hugePageSize: hugePageSize)
  }

  /// Guest RAM with a picture in pieces of bytes, multiples of 4 KiB.
  init(
    _ detector: Detector, pages: UInt64, pieces: [(offset: UInt64, count: UInt64)],
    hugePageSize: UInt64 = 0
  ) throws {
    let ram = try SharedRAM(pages: pages, hugePageSize: hugePageSize)
    self.ram = ram
    keeper = try WitnessKeeper(detector: detector)
    store = BufferStore(device: .success(try anyUdmabuf()), keeper: .success(keeper))
    ranges = pieces.map { FileRange(file: ram.file, offset: $0.offset, count: $0.count) }
    let bytes = ranges.reduce(0) { $0 + $1.count }
    layout = PixelLayout(
      width: 1024, height: UInt32(bytes / 4096), stride: 4096, fourcc: .xrgb8888)
    ram.write(ram.span(0, pages), UInt8(ascii: "a"))
  }

  func make() throws -> PageBuffer { try store.make(layout: layout, ranges: ranges).get() }

  /// The first byte of the buffer that is not the guest's, nil if all are.
  func firstDifference(_ fd: SharedFD) throws -> Int? {
    return try shownBytes(fd.raw, count: Int(ranges.reduce(0) { $0 + $1.count })).withUnsafeBytes {
      bytes in
      var at = 0
      for range in ranges {
        guard let guest = ram.file.pointer(at: range.offset, count: range.count),
          let shown = bytes.baseAddress
        else { return at }
        if memcmp(shown + at, guest, Int(range.count)) != 0 {
          let count = Int(range.count)
          return at
            + (0..<count).first {
              bytes[at + $0] != guest.load(fromByteOffset: $0, as: UInt8.self)
            }.unsafelyUnwrapped
        }
        at += Int(range.count)
      }
      return nil
    }
  }

  func expectGuestPixels(
    _ buffer: PageBuffer, _ comment: Comment? = nil,
    sourceLocation: SourceLocation = #_sourceLocation
  ) throws {
    let fd = try #require(buffer.current?.fd, comment, sourceLocation: sourceLocation)
    #expect(try firstDifference(fd) == nil, comment, sourceLocation: sourceLocation)
  }
}

extension BufferStore.CheckResult {
  var isIntact: Bool { if case .intact = self { true } else { false } }

  /// Old and new generation of a replaced buffer.
  var replacement: (old: OfferedBuffer, new: OfferedBuffer)? {
    guard case .replaced(let old, let new, _) = self else { return nil }
    return (old, new)
  }
}

/// The numbers of /proc/vmstat by their names, as of one moment.
func vmstat() throws -> [Substring: Int] {
  let text = String(decoding: try WholeFile.read("/proc/vmstat"), as: UTF8.self)
  let pairs = text.split(separator: "\n").map { $0.split(separator: " ") }
  return pairs.reduce(into: [:]) { all, pair in
    if pair.count == 2 { all[pair[0]] = Int(pair[1]) }
  }
}
