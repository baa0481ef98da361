/// How a transport rings bells for a queue, and what it wants to know of it.
public protocol QueueBell: AnyObject {
  /// Interrupts the guest.
  func notifyGuest()
  /// Has the device's ``VirtioDevice/queueKicked(_:)`` called in the loop's next turn.
  func kickAgain()
  /// The ring's memory is missing; the queue is to be kicked when the memory table changes.
  func ringParked()
  /// The ring is bad, for good.
  func ringFailed(_ error: RingError)
}

/// A running queue: its ring, and the way to the guest's interrupt.
///
/// Valid from ``VirtioDevice/queueStarted(_:_:)`` until ``VirtioDevice/queueStopped(_:)`` returns.
public final class VirtioQueue {
  /// The ring.
  public let ring: Virtqueue
  private let bell: any QueueBell

  /// Joins a ring and its bells.
  public init(_ ring: Virtqueue, bell: any QueueBell) {
    self.ring = ring
    self.bell = bell
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
      if case .unmapped = error { bell.ringParked() } else { bell.ringFailed(error) }
      return nil
    }
  }

  /// Answers a request; call ``notifyIfWanted()`` after a batch.
  public func push(_ chain: DescriptorChain, written: UInt32) {
    ring.push(chain, written: written)
  }

  /// Interrupts the guest if it wants to know of what was pushed since the last call.
  public func notifyIfWanted() { if ring.shouldNotify() { bell.notifyGuest() } }

  /// Interrupts the guest.
  public func notifyGuest() { bell.notifyGuest() }

  /// Has the device's ``VirtioDevice/queueKicked(_:)`` called in the loop's next turn: for a
  /// device that bounds its work per turn.
  public func kickAgain() { bell.kickAgain() }

  /// Ends this ring, and no other, as broken.
  public func fail(_ error: RingError) { bell.ringFailed(error) }
}
