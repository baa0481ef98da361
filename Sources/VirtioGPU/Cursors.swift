import Buffers
import GPUCommands
import Pixels
import Scene

// The cursor queue: virtio 1.3 §5.7.6.10.
extension GPUDevice {
  func updateCursor(_ new: CursorRequest) throws(GPUError) -> Outcome {
    let scanout = try self.scanout(new.scanout)
    if new.resource == 0 {
      place(scanout, new)
      hideCursor(of: scanout)
      return .done
    }
    let resource = try find(new.resource)
    if resource.shape != nil { return try updateCursor(new, rendered: resource, on: scanout) }
    guard let source = try cursorPixels(of: resource) else { throw .invalidParameter }
    place(scanout, new)
    set(CursorImage(source, serial: nextCursorSerial()), new, on: scanout)
    return .done
  }

  /// The image comes later, unless another cursor comes before.
  private func updateCursor(
    _ new: CursorRequest, rendered resource: Resource, on scanout: Scanout
  ) throws(GPUError) -> Outcome {
    let (width, height) = (resource.layout.width, resource.layout.height)
    guard renderer != nil, !resource.isLost, width > 0, width <= Self.largestCursor, height > 0,
      height <= Self.largestCursor
    else { throw .invalidParameter }
    place(scanout, new)
    scanout.rendering.cursor = PendingCursor(
      serial: nextCursorSerial(), request: new, resource: resource)
    if !scanout.rendering.isReadingCursor { readCursor(of: scanout) }
    return .done
  }

  /// The guest does not wait for the image, so that many could be asked for: an older one is read
  /// to its end first, and of those after it the newest.
  private func readCursor(of scanout: Scanout) {
    guard let renderer, let cursor = scanout.rendering.cursor else { return }
    guard !cursor.resource.isLost else {
      scanout.rendering.cursor = nil
      return
    }
    let (width, height) = (cursor.resource.layout.width, cursor.resource.layout.height)
    scanout.rendering.isReadingCursor = true
    renderer.perform(.readPixels(resource: cursor.resource.id, width: width, height: height)) {
      [weak self, weak scanout] result in
      guard let self, let scanout else { return }
      scanout.rendering.isReadingCursor = false
      guard let pending = scanout.rendering.cursor else { return }
      guard pending.serial == cursor.serial else { return readCursor(of: scanout) }
      scanout.rendering.cursor = nil
      guard case .success(.pixels(let pixels)) = result,
        pixels.count == Int(width) * Int(height) * 4
      else { return }
      let image = CursorImage(
        width: width, height: height, pixels: pixels, serial: cursor.serial)
      if pending.isHidden {
        setHotSpot(image, pending.request, on: scanout)
        scanout.hiddenCursor = image
      } else {
        set(image, pending.request, on: scanout)
        scene.publish()
      }
    }
  }

  private func set(_ image: CursorImage, _ new: CursorRequest, on scanout: Scanout) {
    setHotSpot(image, new, on: scanout)
    showCursor(image, on: scanout)
  }

  private func setHotSpot(_ image: CursorImage, _ new: CursorRequest, on scanout: Scanout) {
    scanout.cursor.hotX = Self.inside(new.hotX, image.width)
    scanout.cursor.hotY = Self.inside(new.hotY, image.height)
  }

  /// Resource 0 hides the cursor and any other shows it as it was, whatever the resource: so do
  /// QEMU's devices, and Windows' driver shows and hides its cursor by nothing else.
  func moveCursor(_ new: CursorRequest) throws(GPUError) -> Outcome {
    let scanout = try self.scanout(new.scanout)
    place(scanout, new)
    if new.resource == 0 {
      hideCursor(of: scanout)
    } else if scanout.rendering.cursor != nil {
      // The one to be shown is not here yet, and another one would be wrong.
      scanout.rendering.cursor?.isHidden = false
    } else if let image = scanout.hiddenCursor {
      showCursor(image.renamed(nextCursorSerial()), on: scanout)
      return .done
    }
    scene.set(scanout.cursor)
    return .done
  }

  private func showCursor(_ image: CursorImage, on scanout: Scanout) {
    scanout.hiddenCursor = nil
    scanout.rendering.cursor = nil
    scanout.cursor.image = image
    scene.set(scanout.cursor)
  }

  /// Hides the cursor, also one whose image is on its way; the guest can show it again by a move.
  func hideCursor(of scanout: Scanout) {
    scanout.rendering.cursor?.isHidden = true
    guard let image = scanout.cursor.image else { return }
    scanout.hiddenCursor = image
    scanout.cursor.image = nil
    scene.set(scanout.cursor)
  }

  private func nextCursorSerial() -> UInt64 {
    cursorSerial &+= 1
    return cursorSerial
  }

  /// A hot spot that is not in the image is taken for the nearest pixel of it.
  private static func inside(_ hot: Int32, _ side: UInt32) -> UInt32 {
    hot < 0 ? 0 : min(UInt32(hot), side &- 1)
  }

  /// A place further away than any output is wide is as good as another, and leaves those who
  /// compute with it room.
  private func place(_ scanout: Scanout, _ new: CursorRequest) {
    let farthest = CursorState.farthest
    scanout.cursor.x = min(max(new.x, -farthest), farthest)
    scanout.cursor.y = min(max(new.y, -farthest), farthest)
  }

  /// Cursors are 64 by 64 pixels; a blob has no size of its own, so it is taken to be that.
  ///
  /// - Returns: nil where the resource is no cursor.
  private func cursorPixels(of resource: Resource) throws(GPUError) -> PixelSource? {
    let side: UInt32 = 64
    if resource.isBlob {
      let layout = PixelLayout(width: side, height: side, stride: side * 4, fourcc: .argb8888)
      return resource.backing?.pixels(layout)
    }
    guard resource.layout.width <= Self.largestCursor, resource.layout.height <= Self.largestCursor
    else { return nil }
    // A resource that nothing was transferred to is transparent.
    guard let pixels = newestPixels(of: resource) else { throw .outOfMemory }
    return pixels
  }

  /// Pixels in either direction of the largest cursor taken.
  private static let largestCursor: UInt32 = 512
}

extension CursorImage {
  /// The same pixels under another serial.
  func renamed(_ serial: UInt64) -> CursorImage {
    CursorImage(width: width, height: height, pixels: pixels, serial: serial)
  }

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
    ByteOrder(layout.fourcc)?.makeARGB8888(&pixels)
    self.init(width: layout.width, height: layout.height, pixels: pixels, serial: serial)
  }
}
