import CLinux
import Glibc
import Linux
import Pixels

/// QEMU's side of the vhost-user-gpu display socket, QEMU's docs/interop/vhost-user-gpu.rst.
///
/// It keeps what QEMU would show, and a list of everything that would have broken QEMU. It reads
/// in a thread of its own; all else may be called from any thread.
package final class FakeDisplay: Sendable {
  /// What it says and how it behaves.
  package struct Behaviour: Sendable {
    /// Does as QEMU does.
    package init() {}
    /// Answered to GET_PROTOCOL_FEATURES: bit 0 EDID, bit 1 DMABUF2.
    package var protocolFeatures: UInt64 = 3
    /// Sizes of the scanouts in pixels; the others are off.
    package var modes: [(width: UInt32, height: UInt32)] = [(640, 480)]
    /// Reads nothing while set.
    package var stalled = false
    /// Leaves questions without an answer.
    package var silent = false
    /// Leaves DMABUF_UPDATE without its acknowledgement.
    package var withholdsAcknowledgements = false
    /// Milliseconds to wait before each answer.
    package var delay: UInt32 = 0
    /// Reads each message about pixels so many milliseconds late.
    package var lateness: UInt32 = 0
    /// Gets the pixels of each UPDATE, 0xXXRRGGBB, as they came; called while nothing else is read.
    package var inspects: (@Sendable ([UInt32]) -> Void)?
    /// Sent in place of every answer.
    package var replyBytes: [UInt8]?
  }

  /// What one scanout shows.
  package struct Surface: Sendable {
    /// Width in pixels.
    package var width = 0
    /// Height in pixels.
    package var height = 0
    /// Rows of `width` pixels, 0xXXRRGGBB; empty while a dma-buf is shown.
    package var pixels: [UInt32] = []
    /// The dma-buf that is shown instead.
    package var dmabuf: DMABuf?
    /// UPDATE and DMABUF_UPDATE messages so far.
    package var updates = 0
    /// Scanout and disable messages so far.
    package var changes = 0
  }

  /// A buffer that came with DMABUF_SCANOUT or DMABUF_SCANOUT2.
  package struct DMABuf: Sendable {
    /// The buffer.
    package let fd: SharedFD
    /// Visible size and place.
    package let rect: Rect
    /// Bytes from row to row.
    package let stride: Int
    /// DRM_FORMAT_*.
    package let fourcc: UInt32
    /// DRM_FORMAT_MOD_*; only DMABUF_SCANOUT2 has one.
    package let modifier: UInt64?
  }

  /// The cursor.
  package struct Cursor: Sendable, Equatable {
    /// Hidden, and nothing known of it.
    package init() {}
    /// The scanout that it is on.
    package var scanout: UInt32 = 0
    /// Place in pixels.
    package var x: UInt32 = 0
    /// Place in pixels.
    package var y: UInt32 = 0
    /// Hot spot in pixels.
    package var hotX: UInt32 = 0
    /// Hot spot in pixels.
    package var hotY: UInt32 = 0
    /// It is shown.
    package var visible = false
    /// 64×64 pixels, 0xAARRGGBB; empty before the first update.
    package var image: [UInt32] = []
  }

  /// Everything that came, as of some moment.
  package struct State: Sendable {
    /// Scanouts by number.
    package var surfaces: [UInt32: Surface] = [:]
    /// The cursor.
    package var cursor = Cursor()
    /// Messages by request number.
    package var messages: [UInt32: Int] = [:]
    /// Messages that would have crashed or confused QEMU.
    package var violations: [String] = []
    /// What the back-end acknowledged with SET_PROTOCOL_FEATURES.
    package var acknowledgedFeatures: UInt64?
    /// Sockets handed out so far.
    package var sockets = 0
    /// The back-end has closed the present socket.
    package var closed = false
    package var behaviour = Behaviour()
  }

  private let state = Locked(State())
  private let reader = Locked<Reader?>(nil)

  /// A display without a socket: ``replaceSocket()`` makes one.
  package init() {}

  deinit { reader.withLock { $0 = nil } }

  /// Gives the back-end a new socket, as QEMU does at each start; the old one is closed.
  ///
  /// What the old socket brought stays on the screen.
  package func replaceSocket() throws(GuestError) -> OwnedFD {
    let pair = try doing("display socket") { () throws(Errno) in try UnixSocket.Pair(.stream) }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { throw .closed("the display socket") }
    let previous = reader.withLock { reader -> Reader? in
      let previous = reader
      reader = nil
      return previous
    }
    previous?.stop()
    state.withLock {
      $0.sockets += 1
      $0.closed = false
    }
    let fresh = try doing("display thread") { [state] () throws(Errno) in
      try Reader(ours, state)
    }
    reader.withLock { $0 = fresh }
    return try doing("display socket") { () throws(Errno) in try theirs.duplicate() }
  }

  /// Closes the socket, as when QEMU drops the display.
  package func closeSocket() {
    let previous = reader.withLock { reader -> Reader? in
      let previous = reader
      reader = nil
      return previous
    }
    previous?.stop()
  }

  /// What came so far.
  package var now: State { state.withLock { $0 } }

  /// Changes how the display behaves.
  package func behave(_ change: (inout Behaviour) -> Void) {
    state.withLock { change(&$0.behaviour) }
    reader.withLock { $0?.wake() }
  }

  /// Waits until what has come satisfies a condition.
  ///
  /// - Returns: false when it did not within `milliseconds`.
  @discardableResult
  package func wait(milliseconds: Int = 5000, _ condition: (State) -> Bool) -> Bool {
    looksInTime(milliseconds, pause: 200) { condition(now) }
  }

  /// The thread that reads one socket.
  private final class Reader: @unchecked Sendable {
    private let wakeUp: SharedFD
    private let stopping: Locked<Bool>
    private var thread: Thread?

    init(_ socket: SharedFD, _ state: Locked<State>) throws(Errno) {
      wakeUp = SharedFD(OwnedFD(adopting: try check(ph_eventfd(0), "eventfd")))
      stopping = Locked(false)
      let session = DisplaySession(socket, state, wakeUp, stopping)
      let box = SendableBox(session)
      thread = try Thread("fake-display") { box.value.run() }
    }

    func wake() { _ = ph_eventfd_signal(wakeUp.raw) }

    func stop() {
      stopping.withLock { $0 = true }
      wake()
      thread = nil
    }

    deinit { stop() }
  }
}

/// Moves a value into a thread that is the only one to use it.
final class SendableBox<Value>: @unchecked Sendable {
  let value: Value
  init(_ value: Value) { self.value = value }
}
