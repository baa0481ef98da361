import Glibc
import Linux
import PinholeFrames
import Pixels

/// A YUV4MPEG2 file: each frame of one output, as mpv, ffmpeg and others read it.
///
/// The format has one size and a constant rate; a frame is repeated until the next one is due.
final class ViewMovie {
  private let path: String
  private let fd: OwnedFD
  private let rate: UInt64
  private var first: (output: UInt32, width: Int, height: Int, timestamp: UInt64)?
  private var planes: [UInt8] = []
  private var written: UInt64 = 0

  /// Makes the file, or empties it.
  init(_ path: String, rate: Int) throws {
    self.path = path
    self.rate = UInt64(max(rate, 1))
    do throws(Errno) {
      fd = try OwnedFD.open(path, O_WRONLY | O_CREAT | O_TRUNC)
    } catch { throw ViewError("cannot write \(path): \(error.message); choose another --y4m") }
  }

  /// Adds a frame; those of other outputs and of another size than the first are left out.
  ///
  /// - Parameter picture: rows of 4 bytes a pixel, blue first, as XR24 and AR24 are.
  func add(_ frame: ReceivedFrame, _ picture: FramePicture) throws {
    let (width, height) = (Int(frame.crop.width), Int(frame.crop.height))
    if first == nil {
      first = (frame.output, width, height, frame.timestamp)
      try write(Array("YUV4MPEG2 W\(width) H\(height) F\(rate):1 Ip A1:1 C444\n".utf8))
    }
    guard let first, first.output == frame.output, first.width == width, first.height == height
    else { return }
    let elapsed = frame.timestamp > first.timestamp ? frame.timestamp - first.timestamp : 0
    // Whatever a producer says of the time, a pause is at most ten seconds long.
    let due = min(elapsed / 1000, 1 << 40) * rate / 1_000_000
    let limit = written + 10 * rate
    // The picture before stays on screen until now.
    while !planes.isEmpty, written < min(due, limit) { try writeFrame() }
    planes = try Self.planes(picture, width * height)
    if written <= due { try writeFrame() }
  }

  private func writeFrame() throws {
    try write(Array("FRAME\n".utf8))
    try write(planes)
    written += 1
  }

  /// BT.601 in studio range, a plane each of Y, Cb and Cr.
  private static func planes(_ picture: FramePicture, _ count: Int) throws -> [UInt8] {
    guard let rgb = picture.colours, rgb.count == count * 3 else {
      throw ViewError("this pixel format cannot be written as a movie; --png writes pictures of it")
    }
    return [UInt8](unsafeUninitializedCapacity: count * 3) { out, initialized in
      for index in 0..<count {
        let (r, g, b) = (Int(rgb[index * 3]), Int(rgb[index * 3 + 1]), Int(rgb[index * 3 + 2]))
        out[index] = UInt8(clamping: 16 + (66 * r + 129 * g + 25 * b + 128) >> 8)
        out[count + index] = UInt8(clamping: 128 + (-38 * r - 74 * g + 112 * b + 128) >> 8)
        out[2 * count + index] = UInt8(clamping: 128 + (112 * r - 94 * g - 18 * b + 128) >> 8)
      }
      initialized = count * 3
    }
  }

  private func write(_ bytes: [UInt8]) throws {
    var at = 0
    while at < bytes.count {
      let count = bytes.withUnsafeBytes { all in
        Glibc.write(fd.raw, all.baseAddress.map { $0 + at }, all.count - at)
      }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else {
        throw ViewError(
          "cannot write \(path): \(Errno(errno, "write").message); choose another --y4m")
      }
      at += count
    }
  }
}
