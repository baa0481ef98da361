import PinholeInput

/// Events on their way to a device that takes them when it can: bounded.
///
/// Where there is no more room all that waits is dropped, and made up for later: keys that went
/// up meanwhile go up, and the pointer goes to its last place.
public struct PendingEvents {
  /// Events that may wait.
  public static let limit = 1024

  private let profile: InputProfile
  private var events: [InputEvent] = []
  private var next = 0
  /// Whether something was dropped.
  private var isBehind = false
  /// Keys that are down for those who press them.
  private var wanted: Set<UInt16> = []
  /// Keys that are down for the guest.
  private var told: Set<UInt16> = []
  private var place: [UInt16: Int32] = [:]
  /// Events that were dropped.
  public private(set) var dropped: UInt64 = 0

  /// Nothing waits, no key is down.
  public init(_ profile: InputProfile) { self.profile = profile }

  /// Something waits.
  public var isEmpty: Bool { next == events.count && !isBehind }

  /// Adds what happened at one moment, without `EV_SYN`; absolute axes from 0 to 32767.
  ///
  /// - Parameter isLive: false when nobody is there to take it: then it is only remembered.
  public mutating func add(_ moment: [InputEvent], isLive: Bool) {
    let known = moment.filter { profile.has($0) }
    for event in known {
      switch event.type {
      case EventType.key:
        if event.value == 0 { wanted.remove(event.code) } else { wanted.insert(event.code) }
      case EventType.absolute: place[event.code] = event.value
      default: break
      }
    }
    guard !known.isEmpty else { return }
    guard isLive, !isBehind, events.count - next + known.count < Self.limit else {
      dropped &+= UInt64(known.count)
      return fallBehind()
    }
    if next == events.count { removeTaken() }
    events += known
    events.append(.synchronize)
  }

  private mutating func fallBehind() {
    dropped &+= UInt64(events.count - next)
    events.removeAll()
    next = 0
    isBehind = true
  }

  /// The next event to give; it stays until ``take()``.
  public mutating func first() -> InputEvent? {
    if next == events.count, isBehind { catchUp() }
    return next < events.count ? events[next] : nil
  }

  /// The event that ``first()`` named has been given.
  public mutating func take() {
    guard next < events.count else { return }
    let event = events[next]
    next += 1
    if event.type == EventType.key {
      if event.value == 0 { told.remove(event.code) } else { told.insert(event.code) }
    }
    if next == events.count { removeTaken() }
  }

  private mutating func removeTaken() {
    events.removeAll(keepingCapacity: true)
    next = 0
  }

  private mutating func catchUp() {
    isBehind = false
    // The moment that was cut off ends first.
    events.append(.synchronize)
    for key in told.subtracting(wanted).sorted() {
      events.append(.key(key, isDown: false))
      events.append(.synchronize)
    }
    guard !place.isEmpty else { return }
    for (axis, value) in place.sorted(by: { $0.key < $1.key }) {
      events.append(.absolute(axis, value))
    }
    events.append(.synchronize)
  }

  /// A driver begins that knows of no key and no place: what waits is not for it.
  public mutating func restart() {
    events.removeAll()
    next = 0
    isBehind = false
    told = []
    place = [:]
  }
}

extension InputEvent {
  /// `EV_SYN`, `SYN_REPORT`.
  static let synchronize = InputEvent(type: EventType.synchronize, code: 0, value: 0)
}
