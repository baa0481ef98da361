import CDrm
import Glibc
import Linux

/// A dma-buf that a display scans out where it is.
public final class ImportedFramebuffer {
  /// The framebuffer's id.
  public let id: UInt32
  private let handle: UInt32
  private let screen: KMSScreen

  /// Imports a linear dma-buf: PRIME, then `AddFB2` with `DRM_FORMAT_MOD_LINEAR`.
  ///
  /// - Throws: when the driver cannot scan such memory; the pixels have to be copied then.
  public init(
    _ dmabuf: CInt, width: UInt32, height: UInt32, stride: UInt32, offset: UInt32, fourcc: UInt32,
    on screen: KMSScreen
  ) throws(KMSError) {
    var handle: UInt32 = 0
    guard drmPrimeFDToHandle(screen.fd.raw, dmabuf, &handle) == 0 else {
      throw KMSError("the driver does not import dma-bufs of guest memory", errno)
    }
    var handles: [UInt32] = [handle, 0, 0, 0]
    var strides: [UInt32] = [stride, 0, 0, 0]
    var offsets: [UInt32] = [offset, 0, 0, 0]
    var modifiers: [UInt64] = [0, 0, 0, 0]
    var id: UInt32 = 0
    var result = drmModeAddFB2WithModifiers(
      screen.fd.raw, width, height, fourcc, &handles, &strides, &offsets, &modifiers, &id,
      UInt32(DRM_MODE_FB_MODIFIERS))
    if result != 0 {
      // Drivers without modifiers know nothing but linear.
      result = drmModeAddFB2(
        screen.fd.raw, width, height, fourcc, &handles, &strides, &offsets, &id, 0)
    }
    guard result == 0 else {
      drmCloseBufferHandle(screen.fd.raw, handle)
      throw KMSError(
        "the display does not take pictures of this format and stride (\(stride) bytes)", -result)
    }
    self.id = id
    self.handle = handle
    self.screen = screen
  }

  deinit {
    drmModeRmFB(screen.fd.raw, id)
    drmCloseBufferHandle(screen.fd.raw, handle)
  }
}

/// Memory of the display's own, `XRGB8888`, as large as the screen; black at first.
public final class DumbFramebuffer {
  /// The framebuffer's id.
  public let id: UInt32
  private let handle: UInt32
  private let stride: Int
  private let mapping: UnsafeMutableRawPointer
  private let count: Int
  private let screen: KMSScreen

  /// Allocates and maps it.
  public init(on screen: KMSScreen) throws(KMSError) {
    var handle: UInt32 = 0
    var stride: UInt32 = 0
    var size: UInt64 = 0
    let fd = screen.fd.raw
    guard
      drmModeCreateDumbBuffer(fd, screen.width, screen.height, 32, 0, &handle, &stride, &size)
        == 0
    else { throw KMSError("the display has no memory for a picture", errno) }
    var offset: UInt64 = 0
    var id: UInt32 = 0
    var handles: [UInt32] = [handle, 0, 0, 0]
    var strides: [UInt32] = [stride, 0, 0, 0]
    var offsets: [UInt32] = [0, 0, 0, 0]
    let xrgb8888: UInt32 = 0x3432_5258
    guard
      drmModeAddFB2(
        fd, screen.width, screen.height, xrgb8888, &handles, &strides, &offsets, &id, 0) == 0,
      drmModeMapDumbBuffer(fd, handle, &offset) == 0,
      let base = mmap(nil, Int(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, Int(offset)),
      base != MAP_FAILED
    else {
      let code = errno
      drmModeDestroyDumbBuffer(fd, handle)
      throw KMSError("the display's memory cannot be mapped", code)
    }
    self.id = id
    self.handle = handle
    self.stride = Int(stride)
    self.screen = screen
    count = Int(size)
    mapping = base
    memset(base, 0, count)
  }

  deinit {
    munmap(mapping, count)
    drmModeRmFB(screen.fd.raw, id)
    drmModeDestroyDumbBuffer(screen.fd.raw, handle)
  }

  /// Makes it black.
  public func clear() { memset(mapping, 0, count) }

  /// Copies a picture into the middle, or the middle of one that is too large.
  ///
  /// - Parameters:
  ///   - pixels: rows of `width` pixels, `XRGB8888`.
  ///   - width: pixels across.
  public func fill(_ pixels: [UInt8], width: Int) {
    guard width > 0 else { return }
    let height = pixels.count / 4 / width
    let across = min(width, Int(screen.width))
    let down = min(height, Int(screen.height))
    let from = (x: (width - across) / 2, y: (height - down) / 2)
    let to = (x: (Int(screen.width) - across) / 2, y: (Int(screen.height) - down) / 2)
    if across < Int(screen.width) || down < Int(screen.height) { memset(mapping, 0, count) }
    pixels.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      for row in 0..<down {
        memcpy(
          mapping + (to.y + row) * stride + to.x * 4,
          base + ((from.y + row) * width + from.x) * 4, across * 4)
      }
    }
  }
}
