/// Since when a renderer has been at what it was asked for, in nanoseconds of the monotonic clock.
///
/// Operations are done one after another: each has its time from when the one before it was
/// answered. A fence waits for all that was asked before it and for older fences: it has its time
/// from when the last of these was answered, so that many that take long do not make the last one
/// late. Answers to younger operations are no excuse for an old fence, nor the other way round.
struct RequestClock {
  private struct Request {
    let order: UInt64
    let askedAt: UInt64
  }

  private var lastOrder: UInt64 = 0
  private var operations = Queue<Request>()
  private var fences = Queue<Request>()
  /// Fences that were answered before an older one.
  private var early: Set<UInt64> = []
  private var operationSince: UInt64 = 0
  private var fenceSince: UInt64 = 0

  /// Something is asked; the number by which ``answered(fence:at:)`` knows a fence.
  mutating func asked(isFence: Bool, at now: UInt64) -> UInt64 {
    lastOrder &+= 1
    let request = Request(order: lastOrder, askedAt: now)
    if isFence { fences.append(request) } else { operations.append(request) }
    return lastOrder
  }

  /// The oldest operation is answered.
  mutating func answeredOperation(at now: UInt64) {
    guard let done = operations.popFirst() else { return }
    operationSince = now
    if let fence = fences.first, done.order < fence.order { fenceSince = now }
  }

  /// A fence is answered.
  mutating func answered(fence order: UInt64, at now: UInt64) {
    early.insert(order)
    while let first = fences.first, early.remove(first.order) != nil {
      _ = fences.popFirst()
      fenceSince = now
    }
  }

  /// The renderer could not hear of the oldest operation until now.
  mutating func postpone(to now: UInt64) { operationSince = now }

  /// Since when the renderer has been at the request that it has been at for the longest; nil while
  /// nothing is asked.
  var since: UInt64? {
    let operation = operations.first.map { max($0.askedAt, operationSince) }
    guard let fence = fences.first, fence.order < operations.first?.order ?? .max else {
      return operation
    }
    let its = max(fence.askedAt, fenceSince)
    return operation.map { min($0, its) } ?? its
  }
}
