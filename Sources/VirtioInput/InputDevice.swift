import Linux
import Logging
import PinholeInput
import Virtqueue

/// A virtio input device (virtio 1.3, 5.8): events to the guest on queue 0, lamps back on 1.
///
/// It belongs to the event loop's thread.
public final class InputDevice: VirtioDevice, InputTarget {
  /// What the device is.
  public let profile: InputProfile
  /// Lamps that the guest has switched on: bit `LED_NUML` and so on.
  public private(set) var leds: UInt32 = 0
  /// Called when ``leds`` have changed.
  public var ledsChanged: () -> Void = {}
  private var configuration: InputConfiguration
  private var pending: PendingEvents
  private var eventQueue: VirtioQueue?
  private var statusQueue: VirtioQueue?
  private let log: Logger
  private var hasWarned = false
  /// Requests that are served in one turn of the loop, whatever the guest adds meanwhile.
  private static let requestsPerTurn = 512
  private static let eventSize = 8

  /// A device without a driver.
  public init(_ profile: InputProfile, log: Logger) {
    self.profile = profile
    self.log = log
    configuration = InputConfiguration(profile)
    pending = PendingEvents(profile)
  }

  /// Events that were dropped, because no driver took them.
  public var dropped: UInt64 { pending.dropped }

  /// Sends what happened at one moment.
  public func submit(_ moment: [InputEvent]) {
    pending.add(moment, isLive: eventQueue != nil)
    sendEvents()
  }

  /// None of its own.
  public var deviceFeatures: UInt64 { 0 }
  /// Events and status.
  public var queueCount: Int { 2 }
  /// More than the 64 that QEMU gives.
  public var maxQueueSize: UInt16 { 1024 }

  /// Nothing depends on them.
  public func featuresNegotiated(_ features: UInt64) {}

  /// What the driver has selected.
  public func readConfig(offset: UInt32, count: UInt32) -> [UInt8]? {
    configuration.read(offset: offset, count: count)
  }

  /// The driver selects.
  public func writeConfig(offset: UInt32, bytes: [UInt8]) {
    configuration.write(offset: offset, bytes: bytes)
  }

  /// A queue may be served.
  public func queueStarted(_ index: Int, _ queue: VirtioQueue) {
    if index == 0 { eventQueue = queue } else { statusQueue = queue }
  }

  /// Nothing is kept of a queue: there are no requests in flight between two turns.
  public func queueStopped(_ index: Int) {
    if index == 0 { eventQueue = nil } else { statusQueue = nil }
  }

  /// There is room for events, or there are lamps to look at.
  public func queueKicked(_ index: Int) {
    if index == 0 { sendEvents() } else { takeStatus() }
  }

  /// A new driver comes.
  public func deviceReset() { restart() }

  /// A new guest comes.
  public func disconnected() { restart() }

  private func restart() {
    pending.restart()
    configuration = InputConfiguration(profile)
    hasWarned = false
    setLeds(0)
  }

  private func sendEvents() {
    guard let queue = eventQueue else { return }
    var left = Self.requestsPerTurn
    // The driver need not kick for buffers that it gives back: it is asked to, only while
    // something waits for them.
    queue.ring.disableNotifications()
    while let event = pending.first() {
      guard left > 0 else {
        queue.notifyIfWanted()
        return queue.kickAgain()
      }
      left -= 1
      guard let chain = queue.pop() else {
        if queue.ring.enableNotifications() { continue }
        break
      }
      if chain.writableCount < Self.eventSize {
        warn("a buffer for events has room for \(chain.writableCount) bytes, not 8")
        queue.push(chain, written: 0)
        continue
      }
      let word =
        UInt64(event.type) | UInt64(event.code) << 16
        | UInt64(UInt32(bitPattern: event.value)) << 32
      let written = withUnsafeBytes(of: word.littleEndian) { chain.write($0) }
      queue.push(chain, written: UInt32(written))
      pending.take()
    }
    queue.notifyIfWanted()
  }

  private func takeStatus() {
    guard let queue = statusQueue else { return }
    var new = leds
    var left = Self.requestsPerTurn
    repeat {
      queue.ring.disableNotifications()
      while left > 0, let chain = queue.pop() {
        left -= 1
        var word: UInt64 = 0
        let count = withUnsafeMutableBytes(of: &word) { chain.read(into: $0) }
        queue.push(chain, written: 0)
        guard count == Self.eventSize else {
          warn("a status has \(count) bytes, not 8")
          continue
        }
        let status = UInt64(littleEndian: word)
        let code = UInt32(truncatingIfNeeded: status >> 16) & 0xffff
        guard UInt16(truncatingIfNeeded: status) == EventType.led, code < 32 else { continue }
        if status >> 32 == 0 { new &= ~(1 << code) } else { new |= 1 << code }
      }
    } while left > 0 && queue.ring.enableNotifications()
    if left == 0 { queue.kickAgain() }
    queue.notifyIfWanted()
    setLeds(new)
  }

  private func setLeds(_ new: UInt32) {
    guard new != leds else { return }
    leds = new
    ledsChanged()
  }

  private func warn(_ text: String) {
    guard !hasWarned else { return }
    hasWarned = true
    log.warning("\(profile.name): \(text); told once")
  }
}
