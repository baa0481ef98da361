import Buffers
import Fences
import Linux
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
    /// BUFFER_CLOSED came, but fences of its frames have not signalled.
    case closed
  }

  var state = State.offered
  var reason = WithdrawReason.unused
  /// Those who wait for BUFFER_CLOSED.
  var withdrawals: [FrameWithdrawal] = []
  /// BUFFER_CLOSED did not come in time.
  var isOverdue = false
}

/// A frame without FRAME_DONE, or with one whose fence has not signalled.
struct FrameInFlight {
  let serial: UInt64
  let key: FrameBufferKey
  /// When its share is given back without FRAME_DONE.
  let due: UInt64
  /// What is given back at the end; nil once it was given back at the deadline.
  var ticket: FrameTicket?
  /// FRAME_DONE came with this fence.
  var fence: FenceWatch?
}

/// The newest frame of an output, not sent yet.
struct PendingFrame {
  /// The buffer for all, nil if there are only copies.
  var buffer: OfferedBuffer?
  var crop: Rect
  var hold: Hold?
  var copies: (any CopySource)?
  /// Not signalled yet.
  var acquire: SharedFD?
  var timestamp: UInt64
  var whyCopied: WhyCopied?

  func shows(_ key: FrameBufferKey) -> Bool { buffer.map { FrameBufferKey($0) == key } ?? false }
}

/// What a consumer was told about an output, and what it has to be told.
struct FrameClientOutput {
  var size: (width: UInt32, height: UInt32)?
  var sizeIsNews = false
  var pending: PendingFrame?
  /// What changed since the last frame sent, relative to the crop.
  var damage = FrameDamage()
  var hasSkipped = false
  var needsFull = true
  var lastCrop: Rect?
  var serial: UInt64 = 0
  var inFlight: [FrameInFlight] = []
  var cursor: CursorState?
  var cursorIsNews = false
  var imageSent: UInt64?
  /// Where its release points are.
  var timeline: SyncTimeline?
}

/// Waits for consumers to let go of a generation.
final class FrameWithdrawal {
  let key: FrameBufferKey
  let deadline: UInt64
  /// The dma-buf, whose implicit readers are waited for as well.
  let buffer: OfferedBuffer
  var waiting = 0
  var readers: FenceWatch?
  private var released: (() -> Void)?

  init(_ buffer: OfferedBuffer, deadline: UInt64, _ released: @escaping () -> Void) {
    key = FrameBufferKey(buffer)
    self.buffer = buffer
    self.deadline = deadline
    self.released = released
  }

  /// Takes what is to be called at the end; nil the second time.
  func finish() -> (() -> Void)? {
    defer { released = nil }
    readers = nil
    return released
  }
}

/// What has to be given back to the device, which may call the server again when it gets it:
/// so it waits until the server is done with what it was doing.
struct FrameReleases {
  private var shares: [FrameTicket] = []
  private var calls: [() -> Void] = []

  init() {
    shares.reserveCapacity(64)
  }

  var isEmpty: Bool { shares.isEmpty && calls.isEmpty }

  mutating func add(_ share: FrameTicket?) {
    if let share { shares.append(share) }
  }

  mutating func add(_ call: (() -> Void)?) {
    if let call { calls.append(call) }
  }

  mutating func nextShare() -> FrameTicket? { shares.popLast() }

  mutating func nextCall() -> (() -> Void)? { calls.isEmpty ? nil : calls.removeFirst() }
}
