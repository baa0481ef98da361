import Buffers
import Fences
import Linux
import Pixels

/// What the outputs of a guest show, between the device that draws and the sinks that look.
///
/// The device commits and publishes; sinks pull, as ``Sink`` says. The order of a loop's turn:
///
/// 1. For each command: it is run and commits, ``publish()`` lets the sinks pull, and it is answered
///    unless somebody has locked what it waits for.
/// 2. Sinks hear from their consumers in between and unlock; that may answer the guest.
/// 3. ``finishTurn()``: after a look at their pages by the device, late frames are pulled.
/// 4. The device tells the guest of its answers by one interrupt.
public final class Scene {
  /// What sinks were given.
  public struct Counters: Sendable {
    /// Copies that were made or brought up to date.
    public internal(set) var copies: UInt64 = 0
    /// Frames that waited because readers hold every copy.
    public internal(set) var copiesBusy: UInt64 = 0
    /// Bytes copied for readers.
    public internal(set) var copiedBytes: UInt64 = 0
  }

  /// As many as virtio-gpu has.
  public static let outputCount = 16

  /// What happened since the start.
  public private(set) var counters = Counters()
  /// Pays for copies.
  public let memory: CopyMemory
  /// Called when there was no host memory for any copy.
  public var outOfMemory: () -> Void = {}
  private var outputs: [SceneOutput]
  private var sinks: [any Sink] = []
  private var changed: OutputSet = []
  private let maxCopies: Int

  /// Outputs that show nothing.
  ///
  /// - Parameters:
  ///   - maxCopies: of one picture and alignment.
  ///   - memory: pays for copies.
  public init(maxCopies: Int = 6, memory: CopyMemory = CopyMemory()) {
    self.maxCopies = maxCopies
    self.memory = memory
    outputs = (0..<Self.outputCount).map { SceneOutput(index: $0) }
  }

  // MARK: What the device says

  /// Adds a display, which is shown what there is at the end of the turn at the latest.
  public func add(_ sink: any Sink) {
    sinks.append(sink)
    sink.pull(lit)
  }

  /// Takes a display away; what it holds is its own to let go.
  public func remove(_ sink: any Sink) { sinks.removeAll { $0 === sink } }

  /// Whether anybody has a use for the guest's pages.
  public var wantsBuffers: Bool { sinks.contains { $0.wantsBuffers } }

  /// An output has another size from now on, or is off.
  public func resize(_ output: Int, to size: (width: UInt32, height: UInt32)?) {
    guard let state = self[output] else { return }
    state.size = size
    state.commit = nil
    state.news.isResized = true
    changed.insert(OutputSet(output))
    guard size != nil else { return }
    dropCopies(of: output, .unused)
  }

  /// An output shows something that was not committed yet: nobody gets its last picture any more.
  public func invalidate(_ output: Int) { self[output]?.commit = nil }

  /// The same picture is in other memory: nothing changes but where late frames come from.
  public func repoint(_ output: Int, to pixels: PixelSource, owner: AnyObject) {
    self[output]?.commit?.pixels = pixels
    self[output]?.commit?.owner = owner
    self[output]?.commit?.still = nil
  }

  /// An output shows another picture.
  public func commit(_ commit: Commit) {
    guard let state = self[commit.output], let size = state.size, commit.crop.width == size.width,
      commit.crop.height == size.height
    else { return }
    if !state.copiesFit(commit) { dropCopies(of: commit.output, .unused) }
    state.take(commit)
    changed.insert(OutputSet(commit.output))
  }

  /// A cursor moved, changed or was hidden.
  public func set(_ cursor: CursorState) {
    guard let state = self[cursor.output] else { return }
    state.cursor = cursor
    state.news.hasCursor = true
    changed.insert(OutputSet(cursor.output))
  }

  /// Takes a buffer from everybody: no sink may have it pulled or show it after this.
  ///
  /// - Parameter released: runs once all have let go of it.
  public func revoke(
    _ buffer: OfferedBuffer, _ reason: RevocationReason, _ released: @escaping () -> Void = {}
  ) {
    for state in outputs where state.commit?.buffer === buffer { state.commit?.buffer = nil }
    let lock = Hold(released)
    for sink in sinks { sink.revoke(buffer, reason, lock) }
    lock.release()
  }

  /// Takes a generation that was taken off offer from everybody, as it must be before there is
  /// another one.
  public func revoke(
    _ revocation: consuming Revocation, _ reason: RevocationReason,
    _ released: @escaping () -> Void = {}
  ) -> Revoked {
    revocation.carryOut { revoke($0, reason, released) }
  }

  /// Takes all copies of an output back.
  public func dropCopies(of output: Int, _ reason: RevocationReason) {
    guard let state = self[output] else { return }
    let pools = state.takePools()
    for buffer in pools.flatMap(\.offered) { revoke(buffer, reason) }
  }

  /// Whether anybody still has a buffer on screen: it is no time to revoke it as unused.
  public func isSeen(_ buffer: OfferedBuffer) -> Bool { sinks.contains { $0.shows(buffer) } }

  /// The guest does not wait for a lock any longer.
  public func expire(_ lock: Hold) { for sink in sinks { sink.expired(lock) } }

  /// Has the sinks find out what was read meanwhile, before somebody looks at its locks.
  public func reviewLocks() { for sink in sinks { sink.reviewLocks() } }

  /// Lets the sinks pull what was committed.
  public func publish() {
    guard !changed.isEmpty else { return }
    let now = changed
    changed = []
    for sink in sinks { sink.pull(now) }
    for state in outputs where now.contains(OutputSet(state.index)) { state.news.clear() }
  }

  /// Buffers that a sink would be given late: their pages have to be looked at before
  /// ``finishTurn()``.
  public func forEachLateBuffer(_ body: (OfferedBuffer) -> Void) {
    var late: OutputSet = []
    for sink in sinks { late.formUnion(sink.lateOutputs) }
    guard !late.isEmpty else { return }
    for state in outputs where late.contains(OutputSet(state.index)) {
      if let buffer = state.commit?.buffer, buffer.memory == .guestPages { body(buffer) }
    }
  }

  /// The end of a loop's turn.
  public func finishTurn() {
    publish()
    for sink in sinks { sink.pullLate() }
  }

  // MARK: What sinks ask

  /// What all outputs show; see ``reports``.
  var states: [SceneOutput] { outputs }

  private subscript(_ output: Int) -> SceneOutput? {
    outputs.indices.contains(output) ? outputs[output] : nil
  }

  /// Outputs that are on, or have a cursor: what a newcomer has to be told of.
  public var lit: OutputSet {
    var set: OutputSet = []
    for state in outputs where state.size != nil || state.cursor?.image != nil {
      set.insert(OutputSet(state.index))
    }
    return set
  }

  /// The size of an output in pixels; nil while it is off.
  public func size(_ output: Int) -> (width: UInt32, height: UInt32)? { self[output]?.size }

  /// The cursor of an output; nil before it had one.
  public func cursor(_ output: Int) -> CursorState? { self[output]?.cursor }

  /// What changed since the last ``Sink/pull(_:)``; for use in it.
  public func news(of output: Int) -> News { self[output]?.news ?? News() }

  /// What an output shows; nil while it is off, or was not drawn yet.
  public func commit(of output: Int) -> Commit? { self[output]?.commit }

  /// Whether an output has a picture.
  public func hasPicture(_ output: Int) -> Bool { self[output]?.commit != nil }

  /// A sync_file for which the picture of an output has to be waited; nil once it has signalled.
  public func acquire(_ output: Int) -> SharedFD? {
    guard let fence = self[output]?.commit?.acquire, !SyncFile.isSignalled(fence.raw) else {
      return nil
    }
    return fence
  }

  /// The picture of an output for the processor, and the part of it that is shown; valid until the
  /// sink returns.
  public func pixels(_ output: Int) -> (PixelSource, Rect)? {
    self[output]?.commit.map { ($0.pixels, $0.crop) }
  }

  /// The newest picture of an output in memory for somebody with these wishes, locked; nil while
  /// there is none, or while readers hold every copy.
  public func frame(_ output: Int, _ wishes: Wishes) -> Frame? {
    guard let state = self[output], let commit = state.commit else { return nil }
    let acquire = acquire(output)
    let choice = Choice(commit, isDrawn: acquire == nil, wishes)
    switch choice {
    case .later: return nil
    case .buffer:
      guard let buffer = commit.buffer else { return nil }
      var lock: Hold? = buffer.lock
      if buffer.isOriginal { lock = commit.lock?.isPending == true ? commit.lock : nil }
      lock?.retain()
      return Frame(
        output: output, buffer: buffer, crop: commit.bufferCrop, lock: lock, acquire: acquire,
        timestamp: state.committedAt,
        whyCopied: buffer.isOriginal ? nil : commit.whyCopied)
    case .copy(let why):
      guard let copy = copy(of: state, commit, wishes.alignment.pooled) else { return nil }
      copy.lock.retain()
      let layout = copy.layout
      return Frame(
        output: output, buffer: copy,
        crop: Rect(x: 0, y: 0, width: layout.width, height: layout.height), lock: copy.lock,
        acquire: nil, timestamp: state.committedAt, whyCopied: why)
    }
  }

  // MARK: Copies

  /// All copies that frames of an output's present picture may be in, for somebody with these
  /// wishes; none before the first of them.
  public func copies(of output: Int, _ wishes: Wishes) -> [OfferedBuffer] {
    self[output]?.pool(wishes.alignment.pooled)?.complete() ?? []
  }

  /// A copy of what was committed last, made at most once a commit.
  private func copy(
    of state: SceneOutput, _ commit: Commit, _ alignment: CopyAlignment
  ) -> OfferedBuffer? {
    let pool = state.pool(alignment) ?? makePool(state, commit, alignment)
    if let current = pool.current { return current }
    let before = pool.copiedBytes
    let made = pool.update(from: commit.pixels, crop: commit.crop)
    counters.copiedBytes &+= pool.copiedBytes &- before
    if pool.isStarved { outOfMemory() }
    if made == nil { counters.copiesBusy &+= 1 } else { counters.copies &+= 1 }
    return made
  }

  private func makePool(
    _ state: SceneOutput, _ commit: Commit, _ alignment: CopyAlignment
  ) -> CopyPool {
    let (alignment, obsolete) = state.makeRoom(for: alignment)
    let pool = CopyPool(
      width: commit.crop.width, height: commit.crop.height,
      fourcc: commit.pixels.layout.fourcc, alignment: alignment, limit: maxCopies, in: memory)
    state.add(pool)
    for buffer in obsolete?.offered ?? [] { revoke(buffer, .unused) }
    return pool
  }
}

/// What changed on an output between two pulls.
public struct News {
  /// It has another size, or is on or off.
  public internal(set) var isResized = false
  /// It has another picture.
  public internal(set) var hasPicture = false
  /// Its cursor moved, changed or was hidden.
  public internal(set) var hasCursor = false
  /// What changed in the picture, in pixels of the output.
  public internal(set) var damage = Rect(x: 0, y: 0, width: 0, height: 0)

  mutating func clear() { self = News() }
}

/// One output.
final class SceneOutput {
  let index: Int
  var size: (width: UInt32, height: UInt32)?
  var commit: Commit?
  var committedAt: UInt64 = 0
  var commits: UInt64 = 0
  var cursor: CursorState?
  var news = News()
  /// The usual one, and one for all who ask for more.
  private var pools: [CopyPool] = []

  init(index: Int) { self.index = index }

  func take(_ new: Commit) {
    // Copies of pictures that nobody had copied must be able to catch up later.
    for pool in pools { pool.damage(new.damage) }
    commit = new
    committedAt = Clock.now
    commits &+= 1
    news.damage = news.hasPicture ? news.damage.union(new.damage) : new.damage
    news.hasPicture = true
  }

  func copiesFit(_ new: Commit) -> Bool {
    pools.allSatisfy { pool in
      pool.fourcc == new.pixels.layout.fourcc && pool.width == new.crop.width
        && pool.height == new.crop.height
    }
  }

  /// The pool whose copies suit an alignment.
  func pool(_ alignment: CopyAlignment) -> CopyPool? {
    pools.first {
      alignment == .usual
        ? $0.alignment == .usual
        : $0.alignment != .usual && $0.alignment.joined(with: alignment) == $0.alignment
    }
  }

  /// A flush is copied twice at most, whatever consumers wish: those with more than the usual wish
  /// share what suits them all.
  ///
  /// - Returns: the alignment of a new pool, and the one in whose place it comes.
  func makeRoom(for alignment: CopyAlignment) -> (CopyAlignment, CopyPool?) {
    guard alignment != .usual, let old = pools.firstIndex(where: { $0.alignment != .usual })
    else { return (alignment, nil) }
    let pool = pools.remove(at: old)
    return (alignment.joined(with: pool.alignment), pool)
  }

  func add(_ pool: CopyPool) { pools.append(pool) }

  func takePools() -> [CopyPool] {
    let all = pools
    pools = []
    return all
  }
}
