import GPUCommands
import Linux
import Pixels
import Virtqueue

/// A copy into a snapshot of so many bytes that it is made in parts: the requests behind it wait, and
/// everybody else has his turn in between.
final class LongTransfer {
  private let resource: Resource
  private let done: (GPUResponse) -> Void
  private let rect: Rect
  private let offset: UInt64
  private let isSnapshot: Bool
  private var rows: UInt32 = 0

  /// Nothing longer is done in one go.
  static let least: UInt64 = 16 << 20
  /// Bytes between looks at the clock.
  private static let part: UInt64 = 2 << 20

  /// - Parameters:
  ///   - offset: where the rectangle's first pixel is in the pages, in bytes.
  ///   - isSnapshot: all of the pages become the snapshot, whatever the rectangle.
  ///   - done: is called once, at the end, with the answer to a transfer.
  init(
    _ resource: Resource, _ rect: Rect, offset: UInt64, isSnapshot: Bool,
    _ done: @escaping (GPUResponse) -> Void
  ) {
    self.resource = resource
    self.done = done
    self.isSnapshot = isSnapshot
    self.offset = isSnapshot ? 0 : offset
    self.rect =
      isSnapshot ? resource.whole : rect
  }

  /// All of a resource, from its pages.
  convenience init(snapshotOf resource: Resource, _ done: @escaping (GPUResponse) -> Void) {
    self.init(
      resource, Rect(x: 0, y: 0, width: 0, height: 0), offset: 0, isSnapshot: true, done)
  }

  /// Goes on until a time; true when it is done, and has said so.
  ///
  /// The guest's pages are looked up anew each time: they may have been taken out meanwhile.
  func go(until deadline: UInt64) -> Bool {
    let step = UInt32(clamping: max(1, Self.part / max(1, UInt64(rect.width) &* 4)))
    do throws(GPUError) {
      repeat {
        let rest = rect.dropping(rows: rows)
        try resource.prepare(rest)
        guard resource.snapshots.catchUp(before: rest, bytes: Self.part) else { continue }
        let part = rest.first(rows: step)
        let start = offset &+ UInt64(rows) &* UInt64(resource.layout.stride)
        resource.write(part, offset: isSnapshot ? nil : start)
        rows += part.height
      } while rows < rect.height && Clock.now < deadline
    } catch {
      done(.error(error))
      return true
    }
    guard rows == rect.height else { return false }
    if isSnapshot { resource.imageIsStale = false }
    done(.ok)
    return true
  }
}

extension GPUDevice {
  /// Goes on with a transfer that was begun in an earlier turn, of either queue: there is one at a
  /// time, and the other queue's requests wait for it too.
  ///
  /// - Parameter queue: only if the transfer is this one's.
  /// - Returns: false while it is not done.
  func finishTransfer(on queue: VirtioQueue? = nil, by deadline: UInt64) -> Bool {
    guard let (transfer, its) = longTransfer, queue == nil || its === queue else { return true }
    guard transfer.go(until: deadline) else { return false }
    longTransfer = nil
    return true
  }

  /// Makes a large snapshot in parts, and then does what is left of a request.
  ///
  /// - Parameter rest: runs once, at the end; no later than the queue stops.
  /// - Returns: nil where the snapshot is small enough, or there is no memory for it: then the
  ///   request goes on at once.
  func snapshotInParts(
    of resource: Resource, for exchange: Exchange,
    then rest: @escaping () throws(GPUError) -> Outcome
  ) -> Outcome? {
    guard resource.layout.size > LongTransfer.least, resource.guestPixels != nil,
      (try? prepare(resource, resource.whole)) != nil
    else { return nil }
    // Younger fences of its timeline wait meanwhile, as requests of its queue do.
    fences.add(exchange)
    counters.copiedBytes &+= resource.layout.size
    let transfer = LongTransfer(snapshotOf: resource) { [unowned self] _ in run(exchange, rest) }
    longTransfer = (transfer, exchange.queue)
    return .later
  }
}
