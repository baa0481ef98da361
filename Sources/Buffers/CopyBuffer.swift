import Glibc
import Linux

/// A copy of a picture in a memfd that whoever receives it can only read.
public final class CopyBuffer {
  /// What consumers get.
  public let offered: OfferedBuffer
  private let mapping: Mapping
  /// The part of the picture that this copy has not got yet.
  var stale: Rect

  /// Makes a buffer of zeros.
  ///
  /// - Parameters:
  ///   - width: pixels in a row.
  ///   - height: rows.
  ///   - fourcc: the pixel format.
  ///   - strideAlignment: rows begin at multiples of so many bytes; a power of two.
  ///   - heightAlignment: there is memory for a multiple of so many rows; a power of two.
  public init(
    width: UInt32, height: UInt32, fourcc: FourCC, strideAlignment: UInt32 = 256,
    heightAlignment: UInt32 = 1
  ) throws(Errno) {
    let mask = UInt64(max(strideAlignment, 4)) &- 1
    let row = (UInt64(width) &* 4 &+ mask) & ~mask
    let rest = UInt64(max(heightAlignment, 1)) &- 1
    let rows = (UInt64(height) &+ rest) & ~rest
    let (bytes, overflow) = row.multipliedReportingOverflow(by: rows)
    let page = UInt64(pageSize) &- 1
    guard !overflow, bytes > 0, bytes < 1 << 40, let stride = UInt32(exactly: row),
      let size = Int(exactly: (bytes &+ page) & ~page)
    else { throw Errno(EINVAL, "memfd_create") }
    let fd = try MemFD.create("pinhole-copy", size: size)
    mapping = try Mapping(fd: fd.raw, offset: 0, count: size, writable: true)
    // Our mapping came first and stays writable; nobody can make another.
    try MemFD.add([.shrink, .grow, .futureWrite, .seal], to: fd.raw)
    offered = OfferedBuffer(
      id: BufferID.next(), generation: 1,
      layout: PixelLayout(width: width, height: height, stride: stride, fourcc: fourcc),
      size: UInt64(size), fd: SharedFD(fd), memory: .copy)
    stale = Rect(x: 0, y: 0, width: width, height: height)
  }

  /// Its pixels for this process, which can write them.
  public var pixels: UnsafeMutableRawBufferPointer { mapping.bytes }

  /// Copies what is stale.
  ///
  /// - Parameters:
  ///   - source: the picture.
  ///   - crop: the part of it that this buffer shows, in pixels of the picture.
  /// - Returns: false when the crop is not in the picture or has another size.
  func refresh(from source: PixelSource, crop: Rect) -> Bool {
    let layout = offered.layout
    guard crop.width == layout.width, crop.height == layout.height,
      crop.fits(width: source.layout.width, height: source.layout.height)
    else { return false }
    guard !stale.isEmpty else { return true }
    let part = Rect(
      x: crop.x + stale.x, y: crop.y + stale.y, width: stale.width, height: stale.height)
    let target = mapping.base + Int(stale.y) * Int(layout.stride) + Int(stale.x) * 4
    guard source.copy(part, to: target, stride: Int(layout.stride)) else { return false }
    stale = Rect(x: 0, y: 0, width: 0, height: 0)
    return true
  }
}

/// The copies of one output's picture: as many as consumers hold, up to a limit.
public final class CopyPool {
  /// Pixels in a row.
  public let width: UInt32
  /// Rows.
  public let height: UInt32
  /// The pixel format of source and copies.
  public let fourcc: FourCC
  /// Bytes that were copied so far.
  public private(set) var copiedBytes: UInt64 = 0
  /// How the rows of the copies lie.
  public let alignment: CopyAlignment
  private let limit: Int
  private var buffers: [CopyBuffer] = []

  /// Makes an empty pool.
  ///
  /// - Parameters:
  ///   - width: pixels in a row of the copies.
  ///   - height: rows.
  ///   - fourcc: the pixel format.
  ///   - alignment: how the rows of the copies lie.
  ///   - limit: the greatest number of copies.
  public init(
    width: UInt32, height: UInt32, fourcc: FourCC, alignment: CopyAlignment = .usual,
    limit: Int = 3
  ) {
    self.width = width
    self.height = height
    self.fourcc = fourcc
    self.alignment = alignment
    self.limit = limit
  }

  /// The copies that were offered, to be withdrawn when the pool goes.
  public var offered: [OfferedBuffer] { buffers.map(\.offered) }

  /// A copy of the present picture, whoever looks at it; nil if none is up to date.
  public var current: OfferedBuffer? { buffers.first { $0.stale.isEmpty }?.offered }

  /// A copy that no consumer is looking at, the freshest first; nil when all are in use or there
  /// is no memory for another.
  public func acquire() -> CopyBuffer? {
    var best: CopyBuffer?
    for buffer in buffers where buffer.offered.uses == 0 {
      if let found = best, area(found.stale) <= area(buffer.stale) { continue }
      best = buffer
    }
    if let best { return best }
    guard buffers.count < limit else { return nil }
    let made = try? CopyBuffer(
      width: width, height: height, fourcc: fourcc, strideAlignment: alignment.stride,
      heightAlignment: alignment.height)
    if let made { buffers.append(made) }
    return made
  }

  private func area(_ rect: Rect) -> UInt64 { UInt64(rect.width) * UInt64(rect.height) }

  /// Remembers what changed, for every copy to catch up with.
  ///
  /// - Parameter rect: in pixels of the copies.
  public func damage(_ rect: Rect) {
    let whole = Rect(x: 0, y: 0, width: width, height: height)
    guard let inside = rect.intersection(whole) else { return }
    for buffer in buffers { buffer.stale = buffer.stale.union(inside) }
  }

  /// Brings a free copy up to date.
  ///
  /// - Parameters:
  ///   - source: the picture.
  ///   - crop: the part that the copies show, in pixels of the picture.
  ///   - damage: what changed since the last call, in pixels of the copies.
  /// - Returns: the copy to show; nil when all are in use, which is not forgotten, or when the
  ///   crop does not fit.
  public func update(from source: PixelSource, crop: Rect, damage: Rect) -> OfferedBuffer? {
    self.damage(damage)
    guard let buffer = acquire() else { return nil }
    let bytes = area(buffer.stale) * 4
    guard buffer.refresh(from: source, crop: crop) else { return nil }
    copiedBytes &+= bytes
    return buffer.offered
  }
}
