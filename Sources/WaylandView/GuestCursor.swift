import CWayland
import PinholeFrames
import Pixels

/// The guest's cursor as the window's pointer.
final class GuestCursor {
  /// What it is of has to outlive it.
  private let compositor: Compositor
  private let surface: OpaquePointer
  private var picture: ShmPicture?
  private var hot: (x: CInt, y: CInt) = (0, 0)
  private var isVisible = false
  /// Old pictures that the compositor may still read.
  private var old: [ShmPicture] = []

  init(_ compositor: Compositor) throws(WaylandError) {
    guard let surface = wl_compositor_create_surface(compositor.compositor) else {
      throw WaylandError("no memory for a cursor")
    }
    self.compositor = compositor
    self.surface = surface
  }

  deinit { wl_surface_destroy(surface) }

  /// Another image, or none.
  func take(_ cursor: ReceivedCursor) throws(WaylandError) {
    isVisible = cursor.isVisible
    guard let image = cursor.image else { return }
    let (width, height, stride) = (Int(image.width), Int(image.height), Int(image.stride))
    guard image.fourcc == .argb8888, (1...512).contains(width), (1...512).contains(height),
      stride >= width * 4, image.pixels.count >= stride * (height - 1) + width * 4
    else {
      isVisible = false
      return
    }
    let made = try ShmPicture(compositor, width: width, height: height, hasAlpha: true)
    let all = Rect(x: 0, y: 0, width: image.width, height: image.height)
    image.pixels.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      made.put(all) { base + $0 * stride }
    }
    old.removeAll { !$0.isBusy }
    if let picture { old.append(picture) }
    if old.count > 8 { old.removeFirst() }
    picture = made
    made.isBusy = true
    hot = (CInt(clamping: image.hotX), CInt(clamping: image.hotY))
    wl_surface_attach(surface, made.buffer, 0, 0)
    wl_surface_damage_buffer(surface, 0, 0, CInt(width), CInt(height))
    wl_surface_commit(surface)
  }

  /// Makes it the pointer's picture.
  func set(_ pointer: OpaquePointer, _ serial: UInt32) {
    // A guest that draws its cursor itself needs no second one over it.
    wl_pointer_set_cursor(
      pointer, serial, isVisible && picture != nil ? surface : nil, hot.x, hot.y)
  }
}
