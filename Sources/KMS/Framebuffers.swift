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
    do throws(KMSError) {
      id = try screen.addFramebuffer(
        handle, width: width, height: height, stride: stride, offset: offset, fourcc: fourcc,
        modifier: 0)
    } catch {
      drmCloseBufferHandle(screen.fd.raw, handle)
      throw error
    }
    self.handle = handle
    self.screen = screen
  }

  deinit {
    drmModeRmFB(screen.fd.raw, id)
    drmCloseBufferHandle(screen.fd.raw, handle)
  }
}

/// Memory of the display's own, `XRGB8888`, as large as the screen, that pictures are copied into.
public protocol PaintedFramebuffer: AnyObject {
  /// The framebuffer's id.
  var id: UInt32 { get }

  /// Makes it black.
  func clear() throws(KMSError)

  /// Copies a picture into the middle, or the middle of one that is too large.
  ///
  /// - Parameters:
  ///   - pixels: rows of `width` pixels, `XRGB8888`.
  ///   - width: pixels across.
  func fill(_ pixels: [UInt8], width: Int) throws(KMSError)
}

/// Which part of a picture goes where on a screen, in pixels.
struct Placement {
  let across, down: Int
  /// In the picture, and on the screen.
  let from, to: (x: Int, y: Int)
  /// Something of the screen stays black.
  let hasBorder: Bool

  /// Nil for a picture without a width.
  init?(bytes: Int, width: Int, on screen: (width: Int, height: Int)) {
    guard width > 0 else { return nil }
    let height = bytes / 4 / width
    across = min(width, screen.width)
    down = min(height, screen.height)
    from = ((width - across) / 2, (height - down) / 2)
    to = ((screen.width - across) / 2, (screen.height - down) / 2)
    hasBorder = across < screen.width || down < screen.height
  }

  /// The same for the pixels of a picture, `XRGB8888`.
  init?(_ pixels: [UInt8], width: Int, on screen: KMSScreen) {
    self.init(
      bytes: pixels.count, width: width, on: (Int(screen.width), Int(screen.height)))
  }
}

extension KMSScreen {
  static let xrgb8888: UInt32 = 0x3432_5258

  /// Adds a framebuffer of one plane: `AddFB2` with its modifier.
  ///
  /// - Parameter handle: the memory's GEM handle.
  /// - Throws: where the driver cannot scan it.
  func addFramebuffer(
    _ handle: UInt32, width: UInt32, height: UInt32, stride: UInt32, offset: UInt32,
    fourcc: UInt32, modifier: UInt64
  ) throws(KMSError) -> UInt32 {
    var handles: [UInt32] = [handle, 0, 0, 0]
    var strides: [UInt32] = [stride, 0, 0, 0]
    var offsets: [UInt32] = [offset, 0, 0, 0]
    var modifiers: [UInt64] = [modifier, 0, 0, 0]
    var id: UInt32 = 0
    var result = drmModeAddFB2WithModifiers(
      fd.raw, width, height, fourcc, &handles, &strides, &offsets, &modifiers, &id,
      UInt32(DRM_MODE_FB_MODIFIERS))
    if result != 0, modifier == 0 {
      // Drivers without modifiers know nothing but linear.
      result = drmModeAddFB2(
        fd.raw, width, height, fourcc, &handles, &strides, &offsets, &id, 0)
    }
    guard result == 0 else {
      throw KMSError(
        "the display does not take pictures of this format and stride (\(stride) bytes)", -result)
    }
    return id
  }
}

/// What every display has, and only the processor draws into.
public final class DumbFramebuffer: PaintedFramebuffer {
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
    guard
      drmModeAddFB2(
        fd, screen.width, screen.height, KMSScreen.xrgb8888, &handles, &strides, &offsets, &id, 0)
        == 0,
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
  public func fill(_ pixels: [UInt8], width: Int) {
    guard let place = Placement(pixels, width: width, on: screen) else { return }
    if place.hasBorder { clear() }
    pixels.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      for row in 0..<place.down {
        memcpy(
          mapping + (place.to.y + row) * stride + place.to.x * 4,
          base + ((place.from.y + row) * width + place.from.x) * 4, place.across * 4)
      }
    }
  }
}
