import Linux

/// The picture of a storm, as the guest has it, for consumers that compare theirs with it.
///
/// The guest draws while nobody compares; consumers compare while it waits for its fence. Only
/// the process that discards goes on all the time, and ``StormControl`` tells where.
package final class StormScene: @unchecked Sendable {
  /// What the guest has drawn.
  package struct Drawing: Sendable {
    /// The frame's number, from 1.
    package var frame: UInt64 = 0
    /// Refills begun before the frame was drawn.
    package var refills: UInt64 = 0
    /// The same of the frame before.
    package var refillsBefore: UInt64 = 0
  }

  private struct State {
    var drawing = Drawing()
    var isDrawing = false
    var readers = 0
    var verified: [UInt64]
    var stopped = false
  }

  /// Consumers may look at it until they have ended.
  private let ram: GuestRAM
  /// The guest's picture, mapped.
  package let base: UnsafeMutableRawPointer
  /// Its pages.
  package let pages: Int
  /// The number that its first page has in ``control``.
  let first: Int
  /// Bytes in a row.
  package let stride: Int
  /// Tells which pages are being discarded.
  package let control: StormControl
  /// Each page's count of discards when the guest had drawn; `max` for those under way then.
  private let settled: UnsafeMutablePointer<UInt64>
  private let state: Locked<State>

  /// Watches contiguous pages.
  package init(
    _ ram: GuestRAM, _ pages: GuestPages, first: Int = 0, stride: Int, control: StormControl,
    consumers: Int
  ) {
    self.first = first
    self.ram = ram
    base = ram.pointer(pages.start)
    let count = pages.addresses.count
    self.pages = count
    self.stride = stride
    self.control = control
    settled = .allocate(capacity: count)
    settled.initialize(repeating: .max, count: count)
    state = Locked(State(verified: Array(repeating: 0, count: consumers)))
  }

  deinit { settled.deallocate() }

  /// Rows that a frame leaves out at the top, which tells it from its neighbours.
  package static func top(of frame: UInt64) -> UInt32 { UInt32(frame % 4) }

  /// Stamps every page with the frame's number.
  package func draw(frame: UInt64) {
    while !beginDrawing() { pause() }
    let before = state.withLock { $0.drawing.refills }
    let refills = control.refills
    for page in 0..<pages {
      StormStamp.write(base + page * 4096, tag: frame, page: first + page)
    }
    for page in 0..<pages {
      // In this order: equal counts mean that nothing was under way at the second look.
      let ended = control.ended(first + page)
      let begun = control.begun(first + page)
      settled[page] = begun == ended ? begun : .max
    }
    state.withLock {
      $0.drawing = Drawing(frame: frame, refills: refills, refillsBefore: before)
      $0.isDrawing = false
    }
  }

  private func beginDrawing() -> Bool {
    state.withLock {
      if $0.readers == 0 { $0.isDrawing = true }
      return $0.isDrawing
    }
  }

  /// Waits until the guest is not drawing, and keeps it from it until ``endReading()``.
  ///
  /// - Returns: nil when the storm is over.
  package func beginReading() -> Drawing? {
    while true {
      let (drawing, stopped): (Drawing?, Bool) = state.withLock {
        if $0.stopped { return (nil, true) }
        if $0.isDrawing { return (nil, false) }
        $0.readers += 1
        return ($0.drawing, false)
      }
      if drawing != nil || stopped { return drawing }
      pause()
    }
  }

  package func endReading() { state.withLock { $0.readers -= 1 } }

  /// A consumer has seen a frame.
  package func verified(_ frame: UInt64, consumer: Int) {
    state.withLock { $0.verified[consumer] = max($0.verified[consumer], frame) }
  }

  /// The consumers that have not seen a frame.
  package func waiting(for frame: UInt64) -> [Int] {
    state.withLock { state in state.verified.indices.filter { state.verified[$0] < frame } }
  }

  /// Ends the consumers.
  package func stop() { state.withLock { $0.stopped = true } }
  package var isStopped: Bool { state.withLock { $0.stopped } }

  private func pause() { StormScene.nap() }

  /// Whether no discard of the page has begun since the guest had drawn.
  func isSettled(_ page: Int) -> Bool { control.begun(first + page) == settled[page] }
}
