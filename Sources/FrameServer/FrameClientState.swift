import Buffers
import Fences
import Linux
import Pixels
import Scene

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

  /// Where it is noted that the consumer has closed it, also late, when nobody else knows the buffer.
  let recipients: Recipients
  var state = State.offered
  /// A frame was sent in it.
  var wasShown = false
  var reason = RevocationReason.unused
  /// Those who wait for BUFFER_CLOSED.
  var revocations: [FrameRevocation] = []
  /// BUFFER_CLOSED did not come in time.
  var isOverdue = false
  /// Nothing shows it any more but this consumer, which has no newer picture yet.
  var goesWithNextFrame = false
}

/// A frame without FRAME_DONE, or with one whose fence has not signalled.
struct FrameInFlight {
  let serial: UInt64
  let key: FrameBufferKey
  /// Until it is late: memory is not kept for those who do not answer.
  var buffer: OfferedBuffer?
  /// When it is unlocked without FRAME_DONE.
  let due: UInt64
  /// What its reader keeps back.
  let lock: Hold?
  /// It was unlocked at the deadline.
  var isLate = false
  /// FRAME_DONE came with this fence.
  var fence: FenceWatch?
}

/// What a consumer was told about an output, and what it has to be told.
struct FrameClientOutput {
  var sizeIsNews = false
  /// There is a newer picture than the last one sent.
  var isPending = false
  /// What changed since the last frame sent, relative to the crop.
  var damage = FrameDamage()
  var hasSkipped = false
  var needsFull = true
  var lastCrop: Rect?
  var serial: UInt64 = 0
  /// What its last frame showed.
  var shown: FrameBufferKey?
  var inFlight: [FrameInFlight] = []
  var cursorIsNews = false
  var imageSent: UInt64?
  /// Where its release points are.
  var timeline: SyncTimeline?
}

/// Waits for consumers to let go of a generation.
final class FrameRevocation {
  let key: FrameBufferKey
  let deadline: UInt64
  /// The dma-buf, whose implicit readers are waited for as well.
  let buffer: OfferedBuffer
  /// Those who have it; retained once for the server itself.
  let closers: Hold
  var readers: FenceWatch?
  private var lock: Hold?

  /// - Parameters:
  ///   - lock: the scene's, which is kept until the end.
  ///   - closed: runs when all have let go.
  init(
    _ buffer: OfferedBuffer, deadline: UInt64, _ lock: Hold,
    closed: @escaping (FrameRevocation) -> Void
  ) {
    key = FrameBufferKey(buffer)
    self.buffer = buffer
    self.deadline = deadline
    self.lock = lock
    weak var me: FrameRevocation?
    closers = Hold { if let me { closed(me) } }
    me = self
    lock.retain()
  }

  /// Unlocks, the first time.
  func finish() {
    let kept = lock
    lock = nil
    readers = nil
    kept?.release()
  }
}

/// GPUs that read a frame on after its consumers' last word, as the dma-buf's own fences tell.
final class FrameReaders {
  let lock: Hold
  let buffer: OfferedBuffer
  let due: UInt64
  /// Who unlocked last: it is taken for whoever reads.
  weak var client: FrameClient?
  var watch: FenceWatch?
  /// The guest does not wait for them any longer.
  var isOverdue = false

  init(_ lock: Hold, of buffer: OfferedBuffer, due: UInt64, _ client: FrameClient) {
    self.lock = lock
    self.buffer = buffer
    self.due = due
    self.client = client
  }
}

/// A frame that waits for its acquire fence, on behalf of consumers that cannot.
final class FrameAcquisition {
  let output: Int
  let fence: SharedFD
  let lock: Hold?
  var watch: FenceWatch?

  init(_ output: Int, _ fence: SharedFD, _ lock: Hold?) {
    self.output = output
    self.fence = fence
    self.lock = lock
    lock?.retain()
  }
}
