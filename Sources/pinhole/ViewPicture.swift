import Pictures
import PinholeFrames
import Pixels

/// A copy of what a frame shows.
struct FramePicture {
  private let pixels: [UInt8]
  private let width: UInt32
  private let height: UInt32
  private let fourcc: FourCC

  /// Copies the visible part of a frame.
  init(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) throws(FramesError) {
    pixels = try buffer.pixels(of: frame.crop)
    width = frame.crop.width
    height = frame.crop.height
    fourcc = buffer.fourcc
  }

  private var picture: Picture? {
    pixels.withUnsafeBytes { bytes in
      Picture(
        bytes: bytes,
        layout: PixelLayout(width: width, height: height, stride: width &* 4, fourcc: fourcc))
    }
  }

  /// Red, green and blue of each pixel; nil if the format is not known.
  var colours: [UInt8]? {
    guard let rgba = picture?.rgba else { return nil }
    return [UInt8](unsafeUninitializedCapacity: rgba.count / 4 * 3) { out, count in
      for index in 0..<(rgba.count / 4) {
        for channel in 0..<3 { out[index * 3 + channel] = rgba[index * 4 + channel] }
      }
      count = rgba.count / 4 * 3
    }
  }

  /// Writes it as a PNG file.
  func write(_ path: String) throws {
    guard let picture else {
      throw ViewError("cannot write \(path): pixel format \(fourcc) is not known")
    }
    try picture.writePNG(path)
  }
}
