import Fences
import Glibc
import Linux
import Pixels

/// A copy of a picture in a memfd that whoever receives it can only read.
public final class CopyBuffer {
  /// What consumers get.
  public let offered: OfferedBuffer
  /// Where its pixels are.
  let layout: PixelLayout
  private let use: CopyMemory.Use
  private var base: UnsafeMutableRawPointer { use.piece.mapping.base }
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
  ///   - memory: pays for it.
  public init(
    width: UInt32, height: UInt32, fourcc: FourCC, strideAlignment: UInt32 = 256,
    heightAlignment: UInt32 = 1, in memory: CopyMemory = CopyMemory()
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
    use = try memory.take(size)
    layout = PixelLayout(width: width, height: height, stride: stride, fourcc: fourcc)
    offered = OfferedBuffer(
      id: BufferID.next(), generation: 1, layout: layout, size: UInt64(size), fd: use.piece.fd,
      memory: .copy)
    offered.keeper = use
    stale = Rect(x: 0, y: 0, width: width, height: height)
  }

  /// Its pixels for this process, which can write them.
  public var pixels: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: base, count: Int(offered.size))
  }

  /// Copies what is stale.
  ///
  /// - Parameters:
  ///   - source: the picture.
  ///   - crop: the part of it that this buffer shows, in pixels of the picture.
  /// - Returns: false when the crop is not in the picture or has another size.
  func refresh(from source: PixelSource, crop: Rect) -> Bool {
    guard crop.width == layout.width, crop.height == layout.height,
      crop.fits(width: source.layout.width, height: source.layout.height)
    else { return false }
    guard !stale.isEmpty else { return true }
    let part = Rect(
      x: crop.x + stale.x, y: crop.y + stale.y, width: stale.width, height: stale.height)
    let target = base + Int(stale.y) * Int(layout.stride) + Int(stale.x) * 4
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
  /// There was no memory for the copy that was asked for last.
  public private(set) var isStarved = false
  private let limit: Int
  private let memory: CopyMemory
  private var buffers: [CopyBuffer] = []

  /// Makes an empty pool.
  ///
  /// - Parameters:
  ///   - width: pixels in a row of the copies.
  ///   - height: rows.
  ///   - fourcc: the pixel format.
  ///   - alignment: how the rows of the copies lie.
  ///   - limit: the greatest number of copies.
  ///   - memory: pays for each when it is made.
  public init(
    width: UInt32, height: UInt32, fourcc: FourCC, alignment: CopyAlignment = .usual,
    limit: Int = 3, in memory: CopyMemory = CopyMemory()
  ) {
    self.width = width
    self.height = height
    self.fourcc = fourcc
    self.alignment = alignment
    self.limit = limit
    self.memory = memory
  }

  /// The copies that were offered, to be revoked when the pool goes.
  public var offered: [OfferedBuffer] { buffers.map(\.offered) }

  /// A copy of the present picture, whoever looks at it; nil if none is up to date.
  public var current: OfferedBuffer? { buffers.first { $0.stale.isEmpty }?.offered }

  /// The pixels of an up to date copy, valid until it is given out again and updated.
  public var currentPixels: PixelSource? {
    guard let buffer = buffers.first(where: { $0.stale.isEmpty }),
      let base = buffer.pixels.baseAddress
    else { return nil }
    return PixelSource(
      layout: buffer.layout, spans: [HostSpan(base: base, count: buffer.pixels.count)])
  }

  /// A copy that no consumer is looking at, the freshest first; nil when all are in use or there
  /// is no memory for another.
  public func acquire() -> CopyBuffer? {
    var best: CopyBuffer?
    for buffer in buffers where buffer.offered.lock.readers == 0 {
      if let found = best, area(found.stale) <= area(buffer.stale) { continue }
      best = buffer
    }
    isStarved = false
    if let best { return best }
    guard buffers.count < limit else { return nil }
    let made = makeBuffer()
    if let made { buffers.append(made) }
    isStarved = buffers.isEmpty
    return made
  }

  private func area(_ rect: Rect) -> UInt64 { UInt64(rect.width) * UInt64(rect.height) }

  /// Makes all copies that there may be, as far as there is memory; those that are not drawn into
  /// take none.
  public func complete() -> [OfferedBuffer] {
    while buffers.count < limit {
      guard let made = makeBuffer() else { break }
      buffers.append(made)
    }
    return offered
  }

  private func makeBuffer() -> CopyBuffer? {
    try? CopyBuffer(
      width: width, height: height, fourcc: fourcc, strideAlignment: alignment.stride,
      heightAlignment: alignment.height, in: memory)
  }

  /// Remembers what changed, for every copy to catch up with.
  ///
  /// - Parameter rect: in pixels of the copies.
  public func damage(_ rect: Rect) {
    let whole = Rect(x: 0, y: 0, width: width, height: height)
    guard let inside = rect.intersection(whole) else { return }
    for buffer in buffers { buffer.stale = buffer.stale.union(inside) }
  }

  /// Brings a free copy up to date with all ``damage(_:)``.
  ///
  /// - Parameters:
  ///   - source: the picture.
  ///   - crop: the part that the copies show, in pixels of the picture.
  /// - Returns: the copy to show; nil when all are in use, or when the crop does not fit.
  public func update(from source: PixelSource, crop: Rect) -> OfferedBuffer? {
    guard let buffer = acquire() else { return nil }
    let bytes = area(buffer.stale) * 4
    guard buffer.refresh(from: source, crop: crop) else { return nil }
    copiedBytes &+= bytes
    return buffer.offered
  }
}
