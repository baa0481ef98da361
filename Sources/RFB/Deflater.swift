import CZlib

/// One zlib stream (RFC 1950) that lasts as long as its viewer.
final class Deflater {
  private let stream: UnsafeMutablePointer<z_stream>
  private var level: CInt
  private let isReady: Bool

  /// Starts a stream.
  ///
  /// - Parameter level: 1 (fast) to 9 (small).
  init(level: Int) {
    self.level = CInt(min(max(level, 1), 9))
    stream = .allocate(capacity: 1)
    stream.initialize(to: z_stream())
    let result = deflateInit2_(
      stream, self.level, Z_DEFLATED, 15, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION,
      CInt(MemoryLayout<z_stream>.size))
    isReady = result == Z_OK
  }

  deinit {
    if isReady { deflateEnd(stream) }
    stream.deallocate()
  }

  /// Appends what the bytes become, up to a point where a reader has all of them.
  ///
  /// - Throws: ``RFBError`` when there is no memory.
  func deflate(_ bytes: [UInt8], level: Int, to out: inout [UInt8]) throws(RFBError) {
    let wanted = CInt(min(max(level, 1), 9))
    guard isReady else { throw RFBError("no memory for a zlib stream") }
    let start = out.count
    // What deflateParams(3) and the end of the last block may add.
    let room = Int(deflateBound(stream, uLong(bytes.count))) + 64
    out.append(contentsOf: repeatElement(0, count: room))
    let written = out.withUnsafeMutableBufferPointer { out -> Int? in
      bytes.withUnsafeBufferPointer { bytes -> Int? in
        guard let target = out.baseAddress else { return nil }
        stream.pointee.next_out = target + start
        stream.pointee.avail_out = uInt(room)
        stream.pointee.next_in = UnsafeMutablePointer(mutating: bytes.baseAddress)
        stream.pointee.avail_in = 0
        setLevel(wanted)
        stream.pointee.avail_in = uInt(bytes.count)
        let result = CZlib.deflate(stream, Z_SYNC_FLUSH)
        guard result == Z_OK || result == Z_BUF_ERROR, stream.pointee.avail_in == 0,
          stream.pointee.avail_out > 0
        else { return nil }
        return room - Int(stream.pointee.avail_out)
      }
    }
    guard let written else { throw RFBError("zlib failed") }
    out.removeLast(room - written)
  }

  /// Changes to a level; where that cannot be, the old one does.
  private func setLevel(_ wanted: CInt) {
    if wanted != level, deflateParams(stream, wanted, Z_DEFAULT_STRATEGY) == Z_OK {
      level = wanted
    }
  }
}
