import Linux
import PinholeFrames
import Pixels

/// A consumer of a storm's frames, in a thread of its own.
package final class StormConsumer {
  /// What it saw.
  package struct Seen: Sendable {
    /// Frames that were compared with the guest's memory.
    package var checked: UInt64 = 0
    /// Those of them that were the guest's own pages.
    package var direct: UInt64 = 0
    /// Frames that were sent before the guest's last flush, and judged by what they may show.
    package var early: UInt64 = 0
    /// Frames with a byte that was not the guest's.
    package var stale: UInt64 = 0
    /// The first of those.
    package var firstStale: String?
    /// Generations of buffers that were offered.
    package var generations: UInt64 = 0
    /// What ended the connection too soon.
    package var failure: String?
    /// Nothing yet.
    package init() {}
  }

  private enum Verdict {
    case fine, early
    case stale(StormCheck.Stale)
  }

  private let result: Locked<Seen>
  private let thread: Locked<ThreadBox?>

  private final class ThreadBox: @unchecked Sendable {
    private let thread: Thread
    init(_ thread: consuming Thread) { self.thread = thread }
  }

  /// Connects and begins to look.
  package init(path: String, scene: StormScene, number: Int) throws(GuestError) {
    let consumer: FrameConsumer
    do throws(FramesError) {
      consumer = try FrameConsumer(path: path, options: .init(name: "storm \(number)"))
    } catch { throw .unsupported("\(error)") }
    let box = SendableBox(consumer)
    let result = Locked(Seen())
    self.result = result
    thread = Locked(
      ThreadBox(
        try doing("storm consumer") { () throws(Errno) in
          try Thread("storm-consumer") {
            do throws(FramesError) {
              try Self.look(box.value, scene, number, result)
            } catch {
              if !scene.isStopped { result.withLock { $0.failure = "\(error)" } }
            }
          }
        }))
  }

  /// What it saw so far.
  package var seen: Seen { result.withLock { $0 } }

  private static func look(
    _ consumer: FrameConsumer, _ scene: StormScene, _ number: Int, _ result: Locked<Seen>
  ) throws(FramesError) {
    while !scene.isStopped {
      guard let event = try consumer.next(timeout: 20) else { continue }
      switch event {
      case .bufferAdded: result.withLock { $0.generations += 1 }
      case .frame(let frame):
        guard let buffer = consumer.buffers[frame.buffer] else { continue }
        guard let drawing = scene.beginReading() else { return }
        defer { scene.endReading() }
        let verdict = try judge(frame, buffer, StormCheck(scene: scene, drawing: drawing))
        count(verdict, frame, buffer.memory, drawing, result)
        if case .early = verdict {} else { scene.verified(drawing.frame, consumer: number) }
        try consumer.done(frame)
      default: break
      }
    }
  }

  private static func judge(
    _ frame: ReceivedFrame, _ buffer: ReceivedBuffer, _ check: StormCheck
  ) throws(FramesError) -> Verdict {
    let last = StormScene.top(of: check.drawing.frame)
    if buffer.memory == .dmaBuf {
      let count = min(Int(buffer.size), check.scene.pages * 4096)
      return try buffer.read { bytes in
        guard let base = bytes.baseAddress else { return .early }
        if frame.crop.y == last {
          return check.firstStale(base, at: 0, count: count).map { .stale($0) } ?? .fine
        }
        return check.firstOlder(base, at: 0, count: count).map { .stale($0) } ?? .early
      }
    }
    let before = StormScene.top(of: check.drawing.frame &- 1)
    return try buffer.read { bytes in
      let stale = rows(frame, buffer, bytes, top: last, check.scene, check.firstStale)
      guard let stale else { return .fine }
      // A copy does not tell which frame it is of.
      let older = rows(frame, buffer, bytes, top: before, check.scene, check.firstOlder)
      return older == nil ? .early : .stale(stale)
    }
  }

  private static func rows(
    _ frame: ReceivedFrame, _ buffer: ReceivedBuffer, _ bytes: UnsafeRawBufferPointer, top: UInt32,
    _ scene: StormScene, _ find: (UnsafeRawPointer, Int, Int) -> StormCheck.Stale?
  ) -> StormCheck.Stale? {
    guard let base = bytes.baseAddress else { return nil }
    for row in 0..<Int(frame.crop.height) {
      let place = Int(buffer.offset) + (Int(frame.crop.y) + row) * Int(buffer.stride)
      let stale = find(base + place, (Int(top) + row) * scene.stride, Int(frame.crop.width) * 4)
      if let stale { return stale }
    }
    return nil
  }

  private static func count(
    _ verdict: Verdict, _ frame: ReceivedFrame, _ memory: ReceivedBuffer.Memory,
    _ drawing: StormScene.Drawing, _ result: Locked<Seen>
  ) {
    result.withLock { seen in
      seen.checked += 1
      if memory == .dmaBuf { seen.direct += 1 }
      switch verdict {
      case .fine: break
      case .early: seen.early += 1
      case .stale(let stale):
        seen.stale += 1
        guard seen.firstStale == nil else { return }
        let writer = StormStamp.writer(of: stale.word, page: stale.page, index: stale.index)
        seen.firstStale =
          "frame \(drawing.frame), buffer \(frame.buffer) (\(memory)), page \(stale.page), word "
          + "\(stale.index): \(writer)"
      }
    }
  }
}
