import CWayland
import Glibc
import PinholeFrames
import Pixels

/// A wl_buffer over a producer's dma-buf.
final class GuestPages {
  /// Whether the compositor has taken it.
  enum State {
    case asked, ready, refused
  }

  let name: BufferName
  private(set) var state = State.asked
  private(set) var buffer: OpaquePointer?
  /// The compositor may be reading it.
  var isBusy = false
  private var params: OpaquePointer?
  /// What it is of has to outlive it.
  private let compositor: Compositor
  private let paramsListener: UnsafeMutablePointer<zwp_linux_buffer_params_v1_listener>
  private let bufferListener: UnsafeMutablePointer<wl_buffer_listener>

  /// Asks the compositor to import it.
  init?(_ compositor: Compositor, _ buffer: ReceivedBuffer) {
    guard let dmabuf = compositor.dmabuf, buffer.memory == .dmaBuf,
      buffer.modifier == linearModifier,
      compositor.linearFormats.contains(buffer.fourcc), let offset = UInt32(exactly: buffer.offset),
      let made = zwp_linux_dmabuf_v1_create_params(dmabuf)
    else { return nil }
    self.compositor = compositor
    name = buffer.name
    params = made
    paramsListener = .allocate(capacity: 1)
    paramsListener.initialize(to: zwp_linux_buffer_params_v1_listener())
    bufferListener = .allocate(capacity: 1)
    bufferListener.initialize(to: wl_buffer_listener())
    paramsListener.pointee.created = { data, _, buffer in
      GuestPages.of(data)?.finished(buffer)
    }
    paramsListener.pointee.failed = { data, _ in GuestPages.of(data)?.finished(nil) }
    bufferListener.pointee.release = { data, _ in GuestPages.of(data)?.isBusy = false }
    zwp_linux_buffer_params_v1_add_listener(made, paramsListener, me)
    // The modifier is DRM_FORMAT_MOD_LINEAR.
    zwp_linux_buffer_params_v1_add(made, buffer.descriptor, 0, offset, buffer.stride, 0, 0)
    let inverted = UInt32(ZWP_LINUX_BUFFER_PARAMS_V1_FLAGS_Y_INVERT.rawValue)
    zwp_linux_buffer_params_v1_create(
      made, CInt(clamping: buffer.width), CInt(clamping: buffer.height), buffer.fourcc.rawValue,
      buffer.isYInverted ? inverted : 0)
  }

  deinit {
    if let params { zwp_linux_buffer_params_v1_destroy(params) }
    if let buffer { wl_buffer_destroy(buffer) }
    paramsListener.deallocate()
    bufferListener.deallocate()
  }

  private var me: UnsafeMutableRawPointer { Unmanaged.passUnretained(self).toOpaque() }

  private static func of(_ data: UnsafeMutableRawPointer?) -> GuestPages? {
    data.map { Unmanaged<GuestPages>.fromOpaque($0).takeUnretainedValue() }
  }

  private func finished(_ made: OpaquePointer?) {
    if let params { zwp_linux_buffer_params_v1_destroy(params) }
    params = nil
    buffer = made
    state = made == nil ? .refused : .ready
    if let made { wl_buffer_add_listener(made, bufferListener, me) }
  }
}
