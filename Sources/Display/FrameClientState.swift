import Buffers
import Fences
import VirtioGPU

/// A generation that a consumer knows.
struct KnownBuffer {
  enum State {
    /// The consumer may use it.
    case offered
    /// BUFFER_REMOVE waits for room in the socket.
    case removalQueued
    /// BUFFER_CLOSED is due.
    case removalSent
  }

  var state = State.offered
  var reason = WithdrawReason.unused
  /// Those who wait for BUFFER_CLOSED.
  var withdrawals: [FrameWithdrawal] = []
  /// BUFFER_CLOSED did not come in time.
  var isOverdue = false
}

/// A frame without FRAME_DONE.
struct FrameInFlight {
  let serial: UInt64
  let key: FrameBufferKey
  let sent: UInt64
  /// What is given back with FRAME_DONE; nil once it was given back at the deadline.
  var share: FrameShare?
}

/// What a frame in flight keeps from the device: the buffer's use, and perhaps the guest's fence.
struct FrameShare {
  let buffer: OfferedBuffer
  let hold: Hold?

  init(_ buffer: OfferedBuffer, hold: Hold?) {
    self.buffer = buffer
    self.hold = hold
    buffer.beginUse()
    hold?.retain()
  }

  func giveBack() {
    hold?.release()
    buffer.endUse()
  }
}

/// The newest frame of an output, not sent yet.
struct PendingFrame {
  var buffer: OfferedBuffer
  var key: FrameBufferKey
  var crop: Rect
  var hold: Hold?
  var timestamp: UInt64
}

/// What a consumer was told about an output, and what it has to be told.
struct FrameClientOutput {
  var size: (width: UInt32, height: UInt32)?
  var sizeIsNews = false
  var pending: PendingFrame?
  /// What changed since the last frame sent, relative to the crop.
  var damage = Rect(x: 0, y: 0, width: 0, height: 0)
  var hasSkipped = false
  var needsFull = true
  var lastCrop: Rect?
  var serial: UInt64 = 0
  var inFlight: [FrameInFlight] = []
  var cursor: CursorState?
  var cursorIsNews = false
  var imageSent: UInt64?
}

/// Waits for consumers to let go of a generation.
final class FrameWithdrawal {
  let key: FrameBufferKey
  let deadline: UInt64
  var waiting = 0
  private var released: (() -> Void)?

  init(_ key: FrameBufferKey, deadline: UInt64, _ released: @escaping () -> Void) {
    self.key = key
    self.deadline = deadline
    self.released = released
  }

  /// Takes what is to be called at the end; nil the second time.
  func finish() -> (() -> Void)? {
    defer { released = nil }
    return released
  }
}

/// What has to be given back to the device, which may call the server again when it gets it:
/// so it waits until the server is done with what it was doing.
struct FrameReleases {
  private var shares: [FrameShare] = []
  private var calls: [() -> Void] = []

  init() {
    shares.reserveCapacity(64)
  }

  var isEmpty: Bool { shares.isEmpty && calls.isEmpty }

  mutating func add(_ share: FrameShare?) {
    if let share { shares.append(share) }
  }

  mutating func add(_ call: (() -> Void)?) {
    if let call { calls.append(call) }
  }

  mutating func nextShare() -> FrameShare? { shares.popLast() }

  mutating func nextCall() -> (() -> Void)? { calls.isEmpty ? nil : calls.removeFirst() }
}
