import Fences
import GPUCommands
import Linux
import Virtqueue

/// Where a fence belongs: answers to fenced requests of one timeline go out in order.
///
/// Linux keeps one timeline for a device, and one for each ring of a context that it has asked for
/// rings (`VIRTIO_GPU_FLAG_INFO_RING_IDX`): when a fence signals it signals all older ones of its
/// timeline too, so an answer that overtook another would void what that one waits for.
struct FenceTimeline: Equatable {
  private let context: UInt32
  private let ring: UInt8?

  /// The timeline of a fenced request; nil for others, which nobody has to wait for.
  init?(_ header: GPUHeader) {
    guard header.isFenced else { return nil }
    ring = header.hasRing ? header.ring : nil
    context = header.hasRing ? header.context : 0
  }
}

/// Fenced requests whose answers wait: for what they ask, or for an older one of their timeline.
struct FenceOrder {
  private struct Waiting {
    let timeline: FenceTimeline
    let exchange: Exchange
    /// When it came, if it came behind another; in nanoseconds of the monotonic clock.
    let behindSince: UInt64?
    /// What a flush that is shown waits for.
    var hold: Hold?
    var response: GPUResponse?
  }

  /// Nanoseconds for which a younger fenced request of its timeline may wait for a held flush.
  ///
  /// Linux fences a cursor's TRANSFER_TO_HOST_2D, and waits for it without a limit.
  static let longestWait: UInt64 = 16_000_000

  /// In the order in which they came.
  private var waiting: [Waiting] = []

  /// Whether requests of the timeline wait for their answers.
  func isBusy(_ timeline: FenceTimeline) -> Bool {
    waiting.contains { $0.timeline == timeline }
  }

  /// Takes up a fenced request, unless it is waiting already.
  mutating func add(_ exchange: Exchange, behindSince: UInt64? = nil) {
    guard let timeline = FenceTimeline(exchange.header), at(exchange) == nil else { return }
    waiting.append(Waiting(timeline: timeline, exchange: exchange, behindSince: behindSince))
  }

  /// A waiting flush is answered with the end of a hold.
  mutating func hold(_ exchange: Exchange, by hold: Hold) {
    guard let at = at(exchange) else { return }
    waiting[at].hold = hold
  }

  /// The holds that keep a timeline back.
  func holds(of timeline: FenceTimeline) -> [Hold] {
    waiting.compactMap { $0.timeline == timeline ? $0.hold : nil }
  }

  /// Keeps an answer until it may go out; false if it may do so at once.
  mutating func keep(_ response: GPUResponse, of exchange: Exchange) -> Bool {
    guard let at = at(exchange) else { return false }
    waiting[at].response = response
    return true
  }

  /// Takes the oldest answer of a timeline, if it is there.
  ///
  /// - Parameter waited: gets the nanoseconds that it waited behind others.
  /// - Returns: what to answer; nil when there is nothing that may go out.
  mutating func next(
    of timeline: FenceTimeline, waited: (UInt64) -> Void
  ) -> (Exchange, GPUResponse)? {
    guard let first = waiting.firstIndex(where: { $0.timeline == timeline }) else { return nil }
    return take(first, waited)
  }

  /// Takes the oldest answer that waits on a queue, which is about to stop.
  mutating func next(on queue: VirtioQueue) -> (Exchange, GPUResponse)? {
    let first = waiting.firstIndex { $0.response != nil && $0.exchange.queue === queue }
    return first.flatMap { take($0) { _ in } }
  }

  private mutating func take(
    _ index: Int, _ waited: (UInt64) -> Void
  ) -> (Exchange, GPUResponse)? {
    let entry = waiting[index]
    guard let response = entry.response else { return nil }
    waiting.remove(at: index)
    if let since = entry.behindSince { waited(Clock.now &- since) }
    return (entry.exchange, response)
  }

  private func at(_ exchange: Exchange) -> Int? {
    waiting.firstIndex { $0.exchange.number == exchange.number }
  }
}
