import Linux
import PinholeFrames
import Pixels

/// Memory of our own that PipeWire has in its pool, for frames whose own memory it has not.
final class PoolMemory {
  /// What goes to PipeWire: a memfd that nobody else can write.
  let fd: SharedFD
  /// Bytes of memory.
  let size: UInt32
  private let mapping: Mapping
  /// What of the picture is newer than this; nil where nothing is.
  private var stale: Rect?
  private var isAllStale = true

  init(size: UInt32) throws(Errno) {
    let fd = try MemFD.create("pinhole-pipewire", size: Int(size))
    mapping = try Mapping(fd: fd.raw, offset: 0, count: Int(size), writable: true)
    try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: fd.raw)
    self.fd = SharedFD(fd)
    self.size = size
  }

  /// A part of the picture has changed, all of it if it is nil.
  func changed(_ rect: Rect?) {
    guard let rect else {
      isAllStale = true
      return
    }
    stale = stale.map { $0.union(rect) } ?? rect
  }

  /// Takes over what has changed in a frame.
  ///
  /// - Parameters:
  ///   - crop: the frame's part of the buffer.
  ///   - row: bytes from one row of this memory to the next.
  /// - Returns: false if it cannot be read.
  func copy(_ buffer: ReceivedBuffer, _ crop: Rect, row: Int) -> Bool {
    guard row >= Int(crop.width) * 4, row * Int(crop.height) <= Int(size),
      crop.fits(width: buffer.width, height: buffer.height)
    else { return false }
    let whole = Rect(x: 0, y: 0, width: crop.width, height: crop.height)
    let part = isAllStale ? whole : stale?.intersection(whole)
    isAllStale = false
    stale = nil
    guard let part else { return true }
    let stride = Int(buffer.stride)
    let first = Int(buffer.offset) + (Int(crop.y) + Int(part.y)) * stride
    let start = first + (Int(crop.x) + Int(part.x)) * 4
    let count = Int(part.width) * 4
    let target = mapping.base + Int(part.y) * row + Int(part.x) * 4
    do throws(FramesError) {
      return try buffer.read { source in
        guard let from = source.baseAddress,
          start + (Int(part.height) - 1) * stride + count <= source.count
        else { return false }
        for y in 0..<Int(part.height) {
          (target + y * row).copyMemory(from: from + start + y * stride, byteCount: count)
        }
        return true
      }
    } catch {
      isAllStale = true
      return false
    }
  }

  /// Takes over all of other memory of the same size.
  func copy(_ other: PoolMemory) -> Bool {
    guard other.size == size, other !== self else { return false }
    mapping.base.copyMemory(from: other.mapping.base, byteCount: Int(size))
    isAllStale = other.isAllStale
    stale = other.stale
    return true
  }
}
