import Pictures
import PinholeFrames

/// A copy of what a frame shows.
struct FramePicture {
  private let pixels: [UInt8]
  private let width: Int
  private let height: Int
  private let fourcc: UInt32

  /// Copies the visible part of a frame.
  init(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) throws(FramesError) {
    pixels = try buffer.pixels(of: frame.crop)
    width = Int(frame.crop.width)
    height = Int(frame.crop.height)
    fourcc = buffer.fourcc
  }

  /// Writes it as a PNG file.
  func write(_ path: String) throws {
    let picture = pixels.withUnsafeBytes { bytes in
      Picture(bytes: bytes, width: width, height: height, stride: width * 4, fourcc: fourcc)
    }
    guard let picture else {
      throw ViewError("cannot write \(path): pixel format \(fourcc) is not known")
    }
    try picture.writePNG(path)
  }
}
