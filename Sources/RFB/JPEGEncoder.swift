import CTurboJPEG

/// Makes JPEG pictures with libjpeg-turbo.
final class JPEGEncoder {
  private let handle: tjhandle?
  private var buffer: [UInt8] = []

  init() { handle = tjInitCompress() }

  deinit { if let handle { tjDestroy(handle) } }

  /// A picture of `width` times `height` colours 0x00RRGGBB.
  ///
  /// - Parameter level: RFB's quality, 0 to 9.
  /// - Returns: nil if it cannot be made.
  func encode(_ colours: [UInt32], width: Int, height: Int, level: Int) -> ArraySlice<UInt8>? {
    guard let handle, colours.count >= width * height, width > 0, height > 0 else { return nil }
    // As TigerVNC has it.
    let qualities: [CInt] = [15, 29, 41, 42, 62, 77, 79, 86, 92, 100]
    let level = min(max(level, 0), 9)
    let sampling = level >= 8 ? TJSAMP_444 : level >= 5 ? TJSAMP_422 : TJSAMP_420
    let room = Int(tjBufSize(CInt(width), CInt(height), CInt(sampling.rawValue)))
    guard room > 0 else { return nil }
    if buffer.count < room { buffer = [UInt8](repeating: 0, count: room) }
    var size = UInt(room)
    let result = colours.withUnsafeBytes { colours in
      buffer.withUnsafeMutableBufferPointer { out -> CInt in
        var target = out.baseAddress
        return tjCompress2(
          handle, colours.bindMemory(to: UInt8.self).baseAddress, CInt(width), 0, CInt(height),
          CInt(Self.bytes.rawValue), &target, &size, CInt(sampling.rawValue), qualities[level],
          TJFLAG_NOREALLOC)
      }
    }
    return result == 0 ? buffer[..<Int(size)] : nil
  }

  /// How 0x00RRGGBB lies in memory.
  private static let bytes = 1.littleEndian == 1 ? TJPF_BGRX : TJPF_XRGB
}
