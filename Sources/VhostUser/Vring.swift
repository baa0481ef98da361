import Linux
import Virtqueue

/// What the front-end said of one ring, and whether it runs.
final class Vring {
  enum Kick {
    case none
    /// Poll, for there is no descriptor.
    case polled
    case event(SharedFD)
  }

  let index: Int
  var size: UInt16 = 0
  var addresses: RingAddresses?
  var base: UInt16 = 0
  /// What the front-end was told when it stopped the ring, until it sets the ring up again.
  var stoppedAt: UInt16?
  var kick = Kick.none
  var call: SharedFD?
  var error: SharedFD?
  var isEnabled = false
  /// Present while the ring runs.
  var queue: VirtioQueue?
  /// The ring was bad; it stays down until the front-end sets it up again.
  var isBroken = false
  /// The ring's memory was missing when it was looked at.
  var isParked = false
  var token: EventLoop.Token?
  var timer: LoopTimer?
  /// Serves the ring again without a kick.
  var again: LoopTimer?
  /// Takes a bad ring out of service.
  var onFailure: ((Vring, RingError) -> Void)?

  init(index: Int) { self.index = index }

  var isReady: Bool {
    if case .none = kick { return false }
    return isEnabled && size > 0 && addresses != nil && !isBroken && queue == nil
  }
}

extension Vring: QueueBell {
  func notifyGuest() { if let call { Foreign.signal(call.raw) } }

  func kickAgain() { again?.arm(after: 0) }

  func ringParked() { isParked = true }

  func ringFailed(_ error: RingError) { onFailure?(self, error) }
}
