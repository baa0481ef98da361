import Buffers

// The cursor queue: virtio 1.3 §5.7.6.10.
extension GPUDevice {
  func updateCursor(_ request: Request) throws(Response) -> Outcome {
    let scanout = try self.scanout(request.u32(24))
    let id = request.u32(40)
    if id == 0 {
      place(scanout, request)
      hideCursor(of: scanout)
      return .done
    }
    let resource = try find(id)
    guard let source = cursorPixels(of: resource) else { throw .invalidParameter }
    place(scanout, request)
    cursorSerial &+= 1
    scanout.cursor.hotX = request.u32(44)
    scanout.cursor.hotY = request.u32(48)
    scanout.cursor.image = CursorImage(source, serial: cursorSerial)
    for sink in sinks { sink.cursor(scanout.cursor, imageChanged: true) }
    return .done
  }

  func moveCursor(_ request: Request) throws(Response) -> Outcome {
    let scanout = try self.scanout(request.u32(24))
    place(scanout, request)
    for sink in sinks { sink.cursor(scanout.cursor, imageChanged: false) }
    return .done
  }

  func hideCursor(of scanout: Scanout) {
    guard scanout.cursor.image != nil else { return }
    scanout.cursor.image = nil
    for sink in sinks { sink.cursor(scanout.cursor, imageChanged: true) }
  }

  private func place(_ scanout: Scanout, _ request: Request) {
    scanout.cursor.x = Int32(bitPattern: request.u32(28))
    scanout.cursor.y = Int32(bitPattern: request.u32(32))
  }

  /// Cursors are 64 by 64 pixels; a blob has no size of its own, so it is taken to be that.
  private func cursorPixels(of resource: Resource) -> PixelSource? {
    let side: UInt32 = 64
    if resource.isBlob {
      let layout = PixelLayout(width: side, height: side, stride: side * 4, fourcc: .argb8888)
      return resource.backing?.pixels(layout)
    }
    guard resource.layout.width <= Self.largestCursor, resource.layout.height <= Self.largestCursor
    else { return nil }
    return showsDirectly(resource) ? resource.guestPixels : resource.image?.pixels
  }

  /// Pixels in either direction of the largest cursor taken.
  private static let largestCursor: UInt32 = 512
}

extension CursorImage {
  /// Copies a cursor out of guest memory and makes it `DRM_FORMAT_ARGB8888`.
  convenience init(_ source: PixelSource, serial: UInt64) {
    let layout = source.layout
    let all = Rect(x: 0, y: 0, width: layout.width, height: layout.height)
    let count = Int(layout.width) * Int(layout.height) * 4
    var pixels = [UInt8](repeating: 0, count: count)
    pixels.withUnsafeMutableBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      source.copy(all, to: base, stride: Int(layout.width) * 4)
    }
    layout.fourcc.makeARGB8888(&pixels)
    self.init(width: layout.width, height: layout.height, pixels: pixels, serial: serial)
  }
}

extension FourCC {
  /// Where blue, green, red and alpha are in a pixel's four bytes; nil alpha means opaque.
  var byteOrder: (blue: Int, green: Int, red: Int, alpha: Int?) {
    switch self {
    case .argb8888: (0, 1, 2, 3)
    case .bgrx8888: (3, 2, 1, nil)
    case .bgra8888: (3, 2, 1, 0)
    case .xbgr8888: (2, 1, 0, nil)
    case .abgr8888: (2, 1, 0, 3)
    case .rgbx8888: (1, 2, 3, nil)
    case .rgba8888: (1, 2, 3, 0)
    default: (0, 1, 2, nil)
    }
  }

  /// Reorders pixels of this format in place.
  func makeARGB8888(_ pixels: inout [UInt8]) {
    guard self != .argb8888 else { return }
    let order = byteOrder
    for i in stride(from: 0, to: pixels.count - pixels.count % 4, by: 4) {
      let (blue, green, red) =
        (pixels[i + order.blue], pixels[i + order.green], pixels[i + order.red])
      let alpha = order.alpha.map { pixels[i + $0] } ?? 255
      pixels[i] = blue
      pixels[i + 1] = green
      pixels[i + 2] = red
      pixels[i + 3] = alpha
    }
  }
}
