import CLinux
import Linux
import Virtqueue

/// A running queue: its ring, and the way to the guest's interrupt.
///
/// Valid from ``VhostUserDevice/queueStarted(_:_:)`` until
/// ``VhostUserDevice/queueStopped(_:)`` returns.
public final class VhostUserQueue {
  /// The ring.
  public let ring: Virtqueue
  private let vring: Vring
  private let failed: (Vring, RingError) -> Void

  init(_ ring: Virtqueue, _ vring: Vring, failed: @escaping (Vring, RingError) -> Void) {
    self.ring = ring
    self.vring = vring
    self.failed = failed
  }

  /// The queue's number, from 0.
  public var index: Int { ring.index }

  /// Takes the next request; nil when there is none or the ring is dead.
  ///
  /// A ring whose memory is missing for the moment counts as empty, and is kicked again when
  /// the table of guest memory changes.
  public func pop() -> DescriptorChain? {
    do throws(RingError) {
      return try ring.pop()
    } catch {
      if case .unmapped = error { vring.isParked = true } else { fail(error) }
      return nil
    }
  }

  /// Answers a request; call ``notifyIfWanted()`` after a batch.
  public func push(_ chain: DescriptorChain, written: UInt32) {
    ring.push(chain, written: written)
  }

  /// Interrupts the guest if it wants to know of what was pushed since the last call.
  public func notifyIfWanted() { if ring.shouldNotify() { notifyGuest() } }

  /// Interrupts the guest.
  public func notifyGuest() { if let call = vring.call { _ = ph_eventfd_signal(call.raw) } }

  /// Has the device's ``VhostUserDevice/queueKicked(_:)`` called in the loop's next turn: for a
  /// device that bounds its work per turn.
  public func kickAgain() {
    if case .event(let kick) = vring.kick { _ = ph_eventfd_signal(kick.raw) }
  }

  /// Ends this ring, and no other, as broken.
  public func fail(_ error: RingError) { failed(vring, error) }
}

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
  var kick = Kick.none
  var call: SharedFD?
  var error: SharedFD?
  var isEnabled = false
  /// Present while the ring runs.
  var queue: VhostUserQueue?
  /// The ring was bad; it stays down until the front-end sets it up again.
  var isBroken = false
  /// The ring's memory was missing when it was looked at.
  var isParked = false
  var token: EventLoop.Token?
  var timer: LoopTimer?

  init(index: Int) { self.index = index }

  var isReady: Bool {
    if case .none = kick { return false }
    return isEnabled && size > 0 && addresses != nil && !isBroken && queue == nil
  }
}
