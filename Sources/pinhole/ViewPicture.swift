import Pictures
import PinholeFrames

/// Pictures of received frames.
enum FramePicture {
  /// Writes what an output shows as a PNG file.
  static func write(
    _ frame: ReceivedFrame, _ buffer: ReceivedBuffer, to path: String
  ) throws {
    let pixels = try buffer.pixels(of: frame.crop)
    let picture = pixels.withUnsafeBytes { bytes in
      Picture(
        bytes: bytes, width: Int(frame.crop.width), height: Int(frame.crop.height),
        stride: Int(frame.crop.width) * 4, fourcc: buffer.fourcc)
    }
    guard let picture else {
      throw ViewError("cannot write \(path): the pixel format of \(buffer) is not known")
    }
    try picture.writePNG(path)
  }
}
