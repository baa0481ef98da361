import Buffers
import Glibc
import Linux
import Pixels
import Scene

/// A picture in host memory: a snapshot that TRANSFER_TO_HOST_2D makes.
///
/// One of 1 MiB and more is in a file, so that displays can send it by reference.
final class HostImage {
  let layout: PixelLayout
  let pixels: PixelSource
  /// Its file; nil where it is small, or no file is to be had.
  let still: StillPicture?
  /// The part that it lacks of what the guest has transferred.
  var stale = Rect(width: 0, height: 0)
  private let base: UnsafeMutableRawPointer
  private let share: HostShare

  /// Smaller ones are copied as fast as they are sent by reference.
  private static let worthFile = 1 << 20

  /// A black picture; nil when there is no memory for it.
  ///
  /// - Parameter share: pays for it, for as long as anybody has it.
  init?(width: UInt32, height: UInt32, fourcc: FourCC, _ budget: HostBudget, _ share: HostShare) {
    let (stride, wide) = width.multipliedReportingOverflow(by: 4)
    layout = PixelLayout(width: width, height: height, stride: stride, fourcc: fourcc)
    guard !wide, let size = Int(exactly: layout.size), size > 0 else { return nil }
    self.share = share
    still = size >= Self.worthFile ? Self.file(size, stride, budget, share) : nil
    guard let base = still?.base ?? calloc(1, size) else { return nil }
    self.base = base
    guard let pixels = PixelSource(layout: layout, spans: [HostSpan(base: base, count: size)])
    else {
      if still == nil { free(base) }
      return nil
    }
    self.pixels = pixels
  }

  deinit { if still == nil { free(base) } }

  /// Memory in a file; nil where there are enough of those, or the kernel has none.
  private static func file(
    _ size: Int, _ stride: UInt32, _ budget: HostBudget, _ share: HostShare
  ) -> StillPicture? {
    guard let file = budget.takeFile() else { return nil }
    do throws(Errno) {
      let fd = SharedFD(try MemFD.create("pinhole-picture", size: size))
      let mapping = try Mapping(fd: fd.raw, offset: 0, count: size, writable: true)
      return StillPicture(fd, mapping, stride: stride, keeper: Keeper(share: share, file: file))
    } catch {
      return nil
    }
  }

  private final class Keeper {
    private let share: HostShare
    private let file: HostFile

    init(share: HostShare, file: HostFile) {
      self.share = share
      self.file = file
    }
  }

  /// Somebody reads it by reference: it must not be written.
  var isRead: Bool { still?.isRead ?? false }

  /// Copies a rectangle of the same place from another picture of the same size.
  func copy(_ rect: Rect, from source: PixelSource) {
    guard rect.fits(width: layout.width, height: layout.height) else { return }
    source.copy(rect, to: address(rect.x, rect.y), stride: Int(layout.stride))
  }

  /// Copies a rectangle whose first pixel lies `offset` bytes into `source`'s memory.
  func transfer(_ rect: Rect, from source: PixelSource, offset: UInt64) {
    guard !rect.isEmpty, rect.fits(width: layout.width, height: layout.height) else { return }
    let reach = UInt64(rect.height - 1) * UInt64(layout.stride) + UInt64(rect.width) * 4
    if let first = source.piece(offset: offset, count: reach) {
      for row in 0..<rect.height {
        memcpy(
          address(rect.x, rect.y + row), first + Int(row) * Int(layout.stride),
          Int(rect.width) * 4)
      }
      return
    }
    for row in 0..<rect.height {
      var out = address(rect.x, rect.y + row)
      let (start, overflow) = offset.addingReportingOverflow(
        UInt64(row) * UInt64(layout.stride))
      guard !overflow else { return }
      source.forEachPiece(offset: start, count: Int(rect.width) * 4) { piece, count in
        memcpy(out, piece, count)
        out += count
      }
    }
  }

  private func address(_ x: UInt32, _ y: UInt32) -> UnsafeMutableRawPointer {
    base + Int(y) * Int(layout.stride) + Int(x) * 4
  }
}
