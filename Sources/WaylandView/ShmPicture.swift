import CWayland
import Glibc
import Linux
import PinholeFrames
import Pixels

/// A wl_buffer over memory of our own. The producer's copies cannot be that: a compositor maps
/// its pools for writing too, which their seals forbid.
final class ShmPicture {
  let width: Int
  let height: Int
  let buffer: OpaquePointer
  /// The compositor may be reading it.
  var isBusy = false
  /// What is newer elsewhere: the rectangle around it.
  private var stale: Rect?
  private let mapping: Mapping
  /// What it is of has to outlive it.
  private let compositor: Compositor
  private let listener: UnsafeMutablePointer<wl_buffer_listener>
  private static let xrgb = UInt32(WL_SHM_FORMAT_XRGB8888.rawValue)
  private static let argb = UInt32(WL_SHM_FORMAT_ARGB8888.rawValue)

  /// Memory of so many pixels, all black, or transparent.
  init(
    _ compositor: Compositor, width: Int, height: Int, hasAlpha: Bool = false
  ) throws(WaylandError) {
    self.compositor = compositor
    self.width = width
    self.height = height
    guard (1...16384).contains(width), (1...16384).contains(height) else {
      throw WaylandError("a picture of \(width)x\(height)")
    }
    do throws(Errno) {
      let bytes = width * height * 4
      let memory = try MemFD.create("pinhole-view", size: bytes, seals: [.shrink, .grow])
      mapping = try Mapping(fd: memory.raw, offset: 0, count: bytes, writable: true)
      let pool = wl_shm_create_pool(compositor.shm, memory.raw, CInt(bytes))
      buffer = wl_shm_pool_create_buffer(
        pool, 0, CInt(width), CInt(height), CInt(width * 4), hasAlpha ? Self.argb : Self.xrgb)
      wl_shm_pool_destroy(pool)
    } catch { throw WaylandError("no memory for a picture: \(error)") }
    listener = .allocate(capacity: 1)
    listener.initialize(to: wl_buffer_listener())
    listener.pointee.release = { data, _ in
      guard let data else { return }
      Unmanaged<ShmPicture>.fromOpaque(data).takeUnretainedValue().isBusy = false
    }
    wl_buffer_add_listener(buffer, listener, Unmanaged.passUnretained(self).toOpaque())
    touch(Rect(x: 0, y: 0, width: UInt32(width), height: UInt32(height)))
  }

  deinit {
    wl_buffer_destroy(buffer)
    listener.deallocate()
  }

  /// Something is newer elsewhere.
  func touch(_ rect: Rect) { stale = stale?.union(rect) ?? rect }

  /// What has to be copied, once.
  func takeStale() -> Rect? {
    defer { stale = nil }
    return stale
  }

  /// Copies rows of bytes as they are: 4 bytes a pixel.
  ///
  /// - Parameter row: the address of each row of the rectangle, from 0.
  func put(_ rect: Rect, row: (Int) -> UnsafeRawPointer) {
    guard rect.fits(width: UInt32(width), height: UInt32(height)) else { return }
    for line in 0..<Int(rect.height) {
      let at = ((Int(rect.y) + line) * width + Int(rect.x)) * 4
      memcpy(mapping.base + at, row(line), Int(rect.width) * 4)
    }
  }

  /// Copies colours 0x00RRGGBB or, for cursors, 0xAARRGGBB.
  func put(_ rect: Rect, _ colours: [UInt32]) {
    let across = Int(rect.width)
    guard colours.count >= across * Int(rect.height) else { return }
    colours.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      put(rect) { base + $0 * across * 4 }
    }
  }
}
