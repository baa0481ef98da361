import GuestMemory
import Linux
import Logging
import Virtqueue

/// The life of the rings: set up, started, stopped, broken.
extension VhostUserSession {
  func setUp(_ message: FrontEndMessage) throws(VhostUserError) {
    switch message {
    case .setVringNum(let queue, let size):
      configure(vrings[queue]) { $0.size = size }
    case .setVringAddress(let queue, let addresses):
      configure(vrings[queue]) { $0.addresses = addresses }
    case .setVringBase(let queue, let base):
      beginAnewIfNeeded(vrings[queue], at: base)
      configure(vrings[queue]) { $0.base = base }
    case .setVringKick(let queue, let fd):
      configure(vrings[queue]) { $0.kick = fd.map { .event($0) } ?? .polled }
    case .setVringCall(let queue, let fd):
      vrings[queue].call = fd
      // An interrupt may have gone to the old descriptor; one too many does no harm.
      vrings[queue].queue?.notifyGuest()
    case .setVringError(let queue, let fd): vrings[queue].error = fd
    case .setVringEnable(let queue, let on):
      let vring = vrings[queue]
      vring.isEnabled = on
      if on { startIfReady(vring) } else { stop(vring) }
    default: break
    }
  }

  /// After a pause a ring goes on where it stopped. A driver that begins anew, after a reboot or a
  /// kexec, has it begin elsewhere, and not each front-end says RESET_DEVICE then (QEMU 11's generic
  /// device does not): what the old driver made must not outlive it.
  private func beginAnewIfNeeded(_ vring: Vring, at base: UInt16) {
    guard let stoppedAt = vring.stoppedAt else { return }
    vring.stoppedAt = nil
    guard base != stoppedAt, vrings.allSatisfy({ $0.queue == nil }) else { return }
    logger.info("the guest's driver begins anew")
    for vring in vrings { vring.stoppedAt = nil }
    device.deviceReset()
  }

  /// Changes a ring that may be running: it is stopped, and goes on with its new settings.
  private func configure(_ vring: Vring, _ change: (Vring) -> Void) {
    stop(vring)
    vring.isBroken = false
    change(vring)
    startIfReady(vring)
  }

  /// Stops the ring and says where to go on; the front-end sends a new kick to start it again.
  func getVringBase(_ vring: Vring) -> [UInt8] {
    stop(vring)
    vring.kick = .none
    vring.isBroken = false
    vring.stoppedAt = vring.base
    return VringState(index: UInt32(vring.index), num: UInt32(vring.base)).bytes
  }

  func startIfReady(_ vring: Vring) {
    guard isOpen, vring.isReady, let addresses = vring.addresses else { return }
    do throws(RingError) {
      let ring = try Virtqueue(
        index: vring.index, size: vring.size, addresses: addresses, memory: memory,
        nextAvailable: vring.base,
        indirect: features & VirtioFeature.indirectDescriptors != 0,
        eventIndex: features & VirtioFeature.eventIndex != 0)
      vring.onFailure = { [weak self] in self?.failed($0, $1) }
      vring.queue = VirtioQueue(ring, bell: vring)
    } catch {
      failed(vring, error)
      return
    }
    do throws(Errno) {
      try watchKick(of: vring)
    } catch {
      logger.error("queue \(vring.index) is not served, its kick cannot be watched: \(error)")
      vring.isBroken = true
      vring.queue = nil
      return
    }
    guard let queue = vring.queue else { return }
    device.queueStarted(vring.index, queue)
    // What came before the kick was watched is served without one.
    device.queueKicked(vring.index)
  }

  private func watchKick(of vring: Vring) throws(Errno) {
    if vring.again == nil {
      vring.again = LoopTimer(on: loop) { [weak self, weak vring] in
        guard let self, let vring, vring.queue != nil, !vring.isBroken else { return }
        device.queueKicked(vring.index)
      }
    }
    switch vring.kick {
    case .none: break
    case .event(let kick):
      // Not one system call for a kick: the counter stays as it is until the ring stops.
      vring.token = try loop.watch(kick.raw, for: [.readable, .readHangUp, .edgeTriggered]) {
        [weak self, weak vring] events in
        guard let self, let vring else { return }
        kicked(vring, events)
      }
    case .polled:
      let timer = LoopTimer(on: loop) { [weak self, weak vring] in
        guard let self, let vring, vring.queue != nil else { return }
        device.queueKicked(vring.index)
      }
      timer.arm(after: 1_000_000, every: 1_000_000)
      vring.timer = timer
    }
  }

  private func kicked(_ vring: Vring, _ events: EventLoop.Events) {
    if !events.isDisjoint(with: [.error, .hangUp, .readHangUp]) {
      // The other end is gone for good.
      logger.error("queue \(vring.index): its kick descriptor is dead")
      unwatch(vring)
    }
    guard vring.queue != nil, !vring.isBroken else { return }
    device.queueKicked(vring.index)
  }

  func unwatch(_ vring: Vring) {
    if let token = vring.token {
      loop.unwatch(token)
      // Whoever serves the ring next must not take old kicks for new ones.
      if case .event(let kick) = vring.kick { Foreign.drain(kick.raw) }
    }
    vring.token = nil
    vring.timer = nil
    vring.again?.disarm()
  }

  /// Takes a ring away from the device, if it has it.
  func stop(_ vring: Vring) {
    unwatch(vring)
    guard let queue = vring.queue else { return }
    device.queueStopped(vring.index)
    let left = queue.ring.inFlight
    if left > 0, isOpen {
      logger.warning("queue \(vring.index) was stopped with \(left) requests unanswered")
    }
    vring.base = queue.ring.nextAvailable
    vring.queue = nil
    vring.isParked = false
  }

  /// A bad ring is left alone from now on; the device keeps it until it is stopped.
  func failed(_ vring: Vring, _ error: RingError) {
    guard !vring.isBroken else { return }
    vring.isBroken = true
    unwatch(vring)
    // Zeros took the place of memory that is gone; the session ends, and says so.
    guard memory.lostRegion == nil else { return }
    logger.error("\(error); the queue is stopped until the driver resets it")
    if let event = vring.error { Foreign.signal(event.raw) }
  }
}
