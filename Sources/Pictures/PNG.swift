import CPNG

/// A PNG file that could not be written or read.
public struct PictureError: Error, CustomStringConvertible, Sendable {
  /// What failed, on which file.
  public let description: String
}

extension Picture {
  /// Writes a PNG file with 8 bits a channel; it replaces an existing file.
  ///
  /// - Parameters:
  ///   - path: the file.
  ///   - alpha: keeps the alpha channel; without it every pixel is opaque.
  public func writePNG(_ path: String, alpha: Bool = false) throws(PictureError) {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    image.width = png_uint_32(width)
    image.height = png_uint_32(height)
    let channels = alpha ? 4 : 3
    image.format = alpha ? rgbaFormat : png_uint_32(PNG_FORMAT_FLAG_COLOR)
    var pixels = rgba
    if !alpha {
      pixels = [UInt8](unsafeUninitializedCapacity: width * height * 3) { out, count in
        for i in 0..<(width * height) {
          out[i * 3] = rgba[i * 4]
          out[i * 3 + 1] = rgba[i * 4 + 1]
          out[i * 3 + 2] = rgba[i * 4 + 2]
        }
        count = width * height * 3
      }
    }
    let written = png_image_write_to_file(
      &image, path, 0, pixels, png_int_32(width * channels), nil)
    defer { png_image_free(&image) }
    if written == 0 {
      throw PictureError(description: "cannot write \(path): \(message(of: image))")
    }
  }

  /// Reads any PNG file.
  public init(png path: String) throws(PictureError) {
    var image = png_image()
    image.version = png_uint_32(PNG_IMAGE_VERSION)
    defer { png_image_free(&image) }
    guard png_image_begin_read_from_file(&image, path) != 0 else {
      throw PictureError(description: "cannot read \(path): \(message(of: image))")
    }
    image.format = rgbaFormat
    let (width, height) = (Int(image.width), Int(image.height))
    guard width > 0, height > 0, width <= 1 << 15, height <= 1 << 15 else {
      throw PictureError(description: "cannot read \(path): \(width)x\(height) is too large")
    }
    var pixels = [UInt8](repeating: 0, count: width * height * 4)
    guard png_image_finish_read(&image, nil, &pixels, png_int_32(width * 4), nil) != 0,
      let picture = Picture(width: width, height: height, rgba: pixels)
    else {
      throw PictureError(description: "cannot read \(path): \(message(of: image))")
    }
    self = picture
  }
}

private let rgbaFormat = png_uint_32(PNG_FORMAT_FLAG_COLOR) | png_uint_32(PNG_FORMAT_FLAG_ALPHA)

private func message(of image: png_image) -> String {
  withUnsafeBytes(of: image.message) { bytes in
    String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
  }
}
