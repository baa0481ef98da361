import CWayland
import Glibc
import PinholeFrames
import Pixels

/// A window that is as large as its picture, as far as the compositor permits that.
final class Window {
  /// Its first configure event has come: it may have a picture.
  private(set) var isConfigured = false
  /// The compositor has not asked for the next picture yet.
  private(set) var awaitsFrame = false
  /// Somebody has closed it.
  private(set) var isClosed = false
  /// The compositor shows the last commit.
  var presented: () -> Void = {}
  /// What it is of has to outlive it.
  private let compositor: Compositor
  private let surface: OpaquePointer
  private let shellSurface: OpaquePointer
  private let toplevel: OpaquePointer
  private var callback: OpaquePointer?
  private let viewport: OpaquePointer?
  /// Of the picture.
  private var size: (width: UInt32, height: UInt32) = (0, 0)
  /// Of the picture in the window.
  private var shown: (width: UInt32, height: UInt32) = (0, 0)
  private var fit = Fit.free
  /// What the configure event that is under way will make of ``fit``.
  private var nextFit = Fit.free
  private let surfaceListener: UnsafeMutablePointer<xdg_surface_listener>
  private let toplevelListener: UnsafeMutablePointer<xdg_toplevel_listener>
  private let callbackListener: UnsafeMutablePointer<wl_callback_listener>

  init(_ compositor: Compositor, title: String, fullscreen: Bool) throws(WaylandError) {
    guard let surface = wl_compositor_create_surface(compositor.compositor),
      let shellSurface = xdg_wm_base_get_xdg_surface(compositor.shell, surface),
      let toplevel = xdg_surface_get_toplevel(shellSurface)
    else { throw WaylandError("no memory for a window") }
    self.compositor = compositor
    self.surface = surface
    self.shellSurface = shellSurface
    self.toplevel = toplevel
    viewport = compositor.viewporter.flatMap { wp_viewporter_get_viewport($0, surface) }
    surfaceListener = .allocate(capacity: 1)
    surfaceListener.initialize(to: xdg_surface_listener())
    toplevelListener = .allocate(capacity: 1)
    toplevelListener.initialize(to: xdg_toplevel_listener())
    callbackListener = .allocate(capacity: 1)
    callbackListener.initialize(to: wl_callback_listener())
    surfaceListener.pointee.configure = { data, surface, serial in
      xdg_surface_ack_configure(surface, serial)
      Window.of(data)?.configured()
    }
    toplevelListener.pointee.configure = { data, _, width, height, states in
      Window.of(data)?.propose(UInt32(clamping: width), UInt32(clamping: height), states)
    }
    toplevelListener.pointee.close = { data, _ in Window.of(data)?.isClosed = true }
    callbackListener.pointee.done = { data, callback, _ in
      wl_callback_destroy(callback)
      guard let window = Window.of(data) else { return }
      window.callback = nil
      window.awaitsFrame = false
      window.presented()
    }
    let me = Unmanaged.passUnretained(self).toOpaque()
    xdg_surface_add_listener(shellSurface, surfaceListener, me)
    xdg_toplevel_add_listener(toplevel, toplevelListener, me)
    xdg_toplevel_set_title(toplevel, title)
    xdg_toplevel_set_app_id(toplevel, "pinhole")
    if fullscreen { xdg_toplevel_set_fullscreen(toplevel, nil) }
    wl_surface_commit(surface)
  }

  deinit {
    if let callback { wl_callback_destroy(callback) }
    if let viewport { wp_viewport_destroy(viewport) }
    xdg_toplevel_destroy(toplevel)
    xdg_surface_destroy(shellSurface)
    wl_surface_destroy(surface)
    surfaceListener.deallocate()
    toplevelListener.deallocate()
    callbackListener.deallocate()
  }

  private static func of(_ data: UnsafeMutableRawPointer?) -> Window? {
    data.map { Unmanaged<Window>.fromOpaque($0).takeUnretainedValue() }
  }

  /// A size in a window that floats is a proposal, which nobody has to take.
  private func propose(_ width: UInt32, _ height: UInt32, _ states: UnsafeMutablePointer<wl_array>?)
  {
    var all: Set<UInt32> = []
    if let states, let data = states.pointee.data {
      let words = UnsafeRawBufferPointer(start: data, count: states.pointee.size)
      for offset in stride(from: 0, to: words.count - words.count % 4, by: 4) {
        all.insert(words.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      }
    }
    if width == 0 || height == 0 {
      nextFit = .free
    } else if all.contains(XDG_TOPLEVEL_STATE_FULLSCREEN.rawValue) {
      nextFit = .within(width: width, height: height)
    } else if all.contains(XDG_TOPLEVEL_STATE_MAXIMIZED.rawValue) {
      nextFit = .exactly(width: width, height: height)
    } else {
      nextFit = .free
    }
  }

  private func configured() {
    isConfigured = true
    guard fit != nextFit else { return }
    fit = nextFit
    guard size.width > 0 else { return }
    // What is in the window has to comply from the next commit on, whenever a picture comes.
    place()
    wl_surface_commit(surface)
  }

  /// Tells the compositor where in the window the picture is.
  private func place() {
    guard let viewport else {
      shown = size
      let (width, height) = fit.cut(width: size.width, height: size.height)
      return xdg_surface_set_window_geometry(
        shellSurface, 0, 0, CInt(clamping: width), CInt(clamping: height))
    }
    shown = fit.size(width: size.width, height: size.height)
    let isScaled = shown != size
    wp_viewport_set_destination(
      viewport, isScaled ? CInt(clamping: shown.width) : -1,
      isScaled ? CInt(clamping: shown.height) : -1)
  }

  /// Where in the picture a place of the window is.
  func inPicture(x: Int, y: Int) -> (x: Int, y: Int) {
    guard shown != size, shown.width > 0, shown.height > 0 else { return (x, y) }
    // A place is a pixel of the screen, at most 2^23 of them across (wl_fixed_t).
    return (x * Int(size.width) / Int(shown.width), y * Int(size.height) / Int(shown.height))
  }

  /// Shows a buffer from the compositor's next frame on.
  func show(_ buffer: OpaquePointer, width: UInt32, height: UInt32, damage: [Rect]) {
    if size != (width, height) {
      size = (width, height)
      let (across, down) = (CInt(clamping: width), CInt(clamping: height))
      xdg_toplevel_set_min_size(toplevel, across, down)
      xdg_toplevel_set_max_size(toplevel, across, down)
      place()
    }
    wl_surface_attach(surface, buffer, 0, 0)
    for rect in damage {
      wl_surface_damage_buffer(
        surface, CInt(clamping: rect.x), CInt(clamping: rect.y), CInt(clamping: rect.width),
        CInt(clamping: rect.height))
    }
    if callback == nil, let made = wl_surface_frame(surface) {
      callback = made
      awaitsFrame = true
      wl_callback_add_listener(
        made, callbackListener, Unmanaged.passUnretained(self).toOpaque())
    }
    wl_surface_commit(surface)
  }
}
