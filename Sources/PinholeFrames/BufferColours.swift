import Glibc
import Pixels

// Pixels of any of the producer's formats as plain colours.
extension ReceivedBuffer {
  /// Copies a rectangle as colours 0x00RRGGBB, rows from the top without gaps.
  ///
  /// - Parameters:
  ///   - colours: replaced; its memory is used again.
  ///   - rect: in pixels of the buffer.
  /// - Throws: ``FramesError/unreadable(_:_:)`` if the rectangle does not fit, or where the pixels
  ///   are not linear with 4 bytes each; errors as ``read(_:)``.
  public func read(colours: inout [UInt32], of rect: Rect) throws(FramesError) {
    guard !rect.isEmpty, rect.fits(width: width, height: height) else {
      throw .unreadable(name, "\(rect) is outside \(width)x\(height)")
    }
    guard let packed = layout.packed, let conversion = PixelConversion(from: fourcc) else {
      throw .unreadable(name, "\(fourcc) with modifier 0x\(String(modifier, radix: 16))")
    }
    let (across, down) = (Int(rect.width), Int(rect.height))
    if colours.count != across * down {
      colours.removeAll(keepingCapacity: true)
      colours.append(contentsOf: repeatElement(0, count: across * down))
    }
    try read { bytes in
      colours.withUnsafeMutableBufferPointer { out in
        guard let target = out.baseAddress, let source = bytes.baseAddress else { return }
        for line in 0..<down {
          let y = Int(rect.y) + line
          let inMemory = isYInverted ? Int(height) - 1 - y : y
          let from = Int(packed.offset) + inMemory * Int(packed.stride) + Int(rect.x) * 4
          memcpy(target + line * across, source + from, across * 4)
        }
        conversion.apply(to: UnsafeMutableRawPointer(target), count: out.count)
        for index in out.indices { out[index] = UInt32(littleEndian: out[index]) & 0xff_ffff }
      }
    }
  }
}
