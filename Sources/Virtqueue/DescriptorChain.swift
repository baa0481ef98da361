import GuestMemory

/// One request of the driver's: buffers to read from, then buffers to write into.
///
/// It may be kept and answered later, out of order. It belongs to its ``Virtqueue``, which uses
/// it again once it was pushed: let go of it then. The buffers stay mapped as long as the chain
/// holds them, whatever happens to the memory table.
public final class DescriptorChain {
  /// Index of the first descriptor: the driver's name for the request.
  public internal(set) var head: UInt16 = 0
  /// Where the driver put its request, in order.
  public internal(set) var readable: [FileRange] = []
  /// Where it expects the answer, in order.
  public internal(set) var writable: [FileRange] = []
  /// Bytes in ``readable``.
  public internal(set) var readableCount = 0
  /// Bytes in ``writable``.
  public internal(set) var writableCount = 0
  var isInFlight = false
  let ring: UInt64

  init(ring: UInt64) {
    self.ring = ring
    readable.reserveCapacity(8)
    writable.reserveCapacity(8)
  }

  /// Copies bytes of the request. The driver may change them meanwhile: judge only the copy.
  ///
  /// - Parameters:
  ///   - buffer: where they go; as much is copied as fits.
  ///   - offset: bytes to skip.
  /// - Returns: how many bytes were copied, less than asked for at the end of the request.
  @discardableResult
  public func read(into buffer: UnsafeMutableRawBufferPointer, offset: Int = 0) -> Int {
    var done = 0
    Self.visit(readable, offset: offset, count: buffer.count) { source in
      guard let to = buffer.baseAddress, let from = source.baseAddress else { return }
      (to + done).copyMemory(from: from, byteCount: source.count)
      done &+= source.count
    }
    return done
  }

  /// Copies bytes into the answer.
  ///
  /// - Parameters:
  ///   - bytes: what to write.
  ///   - offset: bytes of the answer to skip.
  /// - Returns: how many bytes found room.
  @discardableResult
  public func write(_ bytes: UnsafeRawBufferPointer, offset: Int = 0) -> Int {
    var done = 0
    Self.visit(writable, offset: offset, count: bytes.count) { room in
      guard let to = room.baseAddress, let from = bytes.baseAddress else { return }
      to.copyMemory(from: from + done, byteCount: room.count)
      done &+= room.count
    }
    return done
  }

  /// Calls `body` with the mapped pieces of a part of the ranges.
  private static func visit(
    _ ranges: [FileRange], offset: Int, count: Int,
    _ body: (UnsafeMutableRawBufferPointer) -> Void
  ) {
    guard offset >= 0 else { return }
    var skip = UInt64(offset)
    var left = UInt64(count)
    for range in ranges where left > 0 {
      guard skip < range.count else {
        skip &-= range.count
        continue
      }
      let take = min(left, range.count &- skip)
      guard let start = range.file.pointer(at: range.offset &+ skip, count: take) else { return }
      body(UnsafeMutableRawBufferPointer(start: start, count: Int(take)))
      left &-= take
      skip = 0
    }
  }

  func reset() {
    // A driver that once sent long chains does not keep memory for them.
    readable.removeAll(keepingCapacity: readable.capacity <= 64)
    writable.removeAll(keepingCapacity: writable.capacity <= 64)
    readableCount = 0
    writableCount = 0
    isInFlight = false
  }
}
