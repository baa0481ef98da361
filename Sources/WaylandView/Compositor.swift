import CWayland
import Glibc
import Linux
import Pixels

/// What a compositor lacks, or said.
public struct WaylandError: Error, CustomStringConvertible, Sendable {
  /// For the operator.
  public let description: String
  init(_ description: String) { self.description = description }
}

/// A connection to a Wayland compositor and what it offers.
final class Compositor {
  let display: OpaquePointer
  private(set) var compositor: OpaquePointer?
  private(set) var shell: OpaquePointer?
  private(set) var shm: OpaquePointer?
  private(set) var dmabuf: OpaquePointer?
  /// Scales surfaces; nil where the compositor has none.
  private(set) var viewporter: OpaquePointer?
  private var seat: (name: UInt32, version: UInt32)?
  /// Formats of dma-bufs with the linear modifier; DRM fourcc.
  private(set) var linearFormats: Set<FourCC> = []
  private let registry: OpaquePointer
  private let registryListener: UnsafeMutablePointer<wl_registry_listener>
  private let shellListener: UnsafeMutablePointer<xdg_wm_base_listener>
  private let dmabufListener: UnsafeMutablePointer<zwp_linux_dmabuf_v1_listener>

  /// Connects as `WAYLAND_DISPLAY` and `XDG_RUNTIME_DIR` say.
  init() throws(WaylandError) {
    guard let display = wl_display_connect(nil) else {
      throw WaylandError(
        "there is no Wayland compositor: WAYLAND_DISPLAY is \(Self.variable("WAYLAND_DISPLAY")),"
          + " XDG_RUNTIME_DIR is \(Self.variable("XDG_RUNTIME_DIR"));"
          + " set them as in the session of the compositor, or start one")
    }
    self.display = display
    registry = wl_display_get_registry(display)
    registryListener = .allocate(capacity: 1)
    registryListener.initialize(to: wl_registry_listener())
    shellListener = .allocate(capacity: 1)
    shellListener.initialize(to: xdg_wm_base_listener())
    dmabufListener = .allocate(capacity: 1)
    dmabufListener.initialize(to: zwp_linux_dmabuf_v1_listener())
    registryListener.pointee.global = { data, _, name, interface, version in
      guard let interface else { return }
      Compositor.of(data)?.found(name, String(cString: interface), version)
    }
    registryListener.pointee.global_remove = { _, _, _ in }
    shellListener.pointee.ping = { _, shell, serial in xdg_wm_base_pong(shell, serial) }
    dmabufListener.pointee.format = { _, _, _ in }
    dmabufListener.pointee.modifier = { data, _, format, high, low in
      if high == 0, low == 0 { Compositor.of(data)?.linearFormats.insert(FourCC(rawValue: format)) }
    }
    let me = Unmanaged.passUnretained(self).toOpaque()
    wl_registry_add_listener(registry, registryListener, me)
    // Once for the globals, once for what they tell.
    guard wl_display_roundtrip(display) >= 0, wl_display_roundtrip(display) >= 0 else {
      throw WaylandError("the compositor closed the connection")
    }
    guard compositor != nil, shell != nil, shm != nil else {
      throw WaylandError(
        "the compositor has no wl_compositor, xdg_wm_base or wl_shm: it is not one of a desktop;"
          + " use another one, or pinhole vnc")
    }
  }

  deinit {
    wl_display_disconnect(display)
    registryListener.deallocate()
    shellListener.deallocate()
    dmabufListener.deallocate()
  }

  private static func variable(_ name: String) -> String {
    getenv(name).map { String(cString: $0) } ?? "not set"
  }

  private static func of(_ data: UnsafeMutableRawPointer?) -> Compositor? {
    data.map { Unmanaged<Compositor>.fromOpaque($0).takeUnretainedValue() }
  }

  private func found(_ name: UInt32, _ interface: String, _ version: UInt32) {
    let me = Unmanaged.passUnretained(self).toOpaque()
    func bind(_ kind: UnsafePointer<wl_interface>?, _ most: UInt32) -> OpaquePointer? {
      wl_registry_bind(registry, name, kind, min(version, most)).map { OpaquePointer($0) }
    }
    switch interface {
    case "wl_compositor" where version >= 4: compositor = bind(ph_wl_compositor(), 4)
    case "wl_shm": shm = bind(ph_wl_shm(), 1)
    case "xdg_wm_base":
      shell = bind(ph_xdg_wm_base(), 1)
      xdg_wm_base_add_listener(shell, shellListener, me)
    case "wp_viewporter": viewporter = bind(ph_wp_viewporter(), 1)
    case "wl_seat" where seat == nil && version >= 5: seat = (name, 5)
    case "zwp_linux_dmabuf_v1" where version >= 3:
      // Later versions tell formats otherwise.
      dmabuf = bind(ph_zwp_linux_dmabuf_v1(), 3)
      zwp_linux_dmabuf_v1_add_listener(dmabuf, dmabufListener, me)
    default: break
    }
  }

  /// The first seat, bound now: it tells of its keyboard and pointer once, at once, and whoever
  /// listens later hears nothing.
  func bindSeat() -> OpaquePointer? {
    seat.flatMap { wl_registry_bind(registry, $0.name, ph_wl_seat(), $0.version) }
      .map { OpaquePointer($0) }
  }

  /// The connection, to be watched for reading; and for writing while ``flush()`` returns false.
  var fd: CInt { wl_display_get_fd(display) }

  /// Reads what is there and calls the listeners.
  ///
  /// - Throws: ``WaylandError`` when the connection is over.
  func dispatch() throws(WaylandError) {
    while wl_display_prepare_read(display) != 0 {
      if wl_display_dispatch_pending(display) < 0 { throw ended }
    }
    if wl_display_read_events(display) < 0, errno != EAGAIN { throw ended }
    if wl_display_dispatch_pending(display) < 0 { throw ended }
  }

  /// Sends what waits, as far as there is room.
  ///
  /// - Returns: whether all is out.
  func flush() throws(WaylandError) -> Bool {
    if wl_display_flush(display) >= 0 { return true }
    if errno == EAGAIN { return false }
    throw ended
  }

  private var ended: WaylandError {
    let code = wl_display_get_error(display)
    guard code == EPROTO else { return WaylandError("the compositor closed the connection") }
    var interface: UnsafePointer<wl_interface>?
    let number = wl_display_get_protocol_error(display, &interface, nil)
    let name = interface.map { String(cString: $0.pointee.name) } ?? "an object"
    return WaylandError(
      "the compositor refuses: error \(number) of \(name); its log says why, and --copy-only asks"
        + " less of it")
  }
}
