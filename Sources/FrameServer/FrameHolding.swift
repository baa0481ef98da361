import Buffers
import Fences
import Linux
import Logging
import PinholeProtocol
import Scene

// What consumers hold, until when, and how it is given back to the device.
extension FrameServer {
  /// How long a copy stays as it is for those who read it: nobody waits for it.
  var copyDeadline: UInt64 { options.holdDeadline.multipliedReportingOverflow(by: 10).partialValue }

  // MARK: Locks

  /// Unlocks a frame. The last to do so waits for the buffer's implicit readers.
  ///
  /// - Parameter leavesReaders: somebody may still read it that only the dma-buf's own fences tell
  ///   of.
  func unlock(_ frame: FrameInFlight, by client: FrameClient, leavesReaders: Bool) {
    guard let lock = frame.lock, let buffer = frame.buffer else { return }
    if leavesReaders { lock.mayHaveReaders = true }
    if lock.isPending, lock.readers == 1, lock.mayHaveReaders, let busy = buffer.busy,
      frame.due > Clock.now
    {
      let readers = FrameReaders(lock, of: buffer, due: frame.due, client)
      if wait(for: readers, of: busy) {
        counters.fencesAwaited &+= 1
        reading.append(readers)
        return armLate(readers.due)
      }
    }
    lock.release()
    guard !buffer.isOriginal, lock.readers == 0 else { return }
    for client in clients where client.waitsForCopy { client.wantsMore = true }
  }

  private func wait(for readers: FrameReaders, of dmaBuf: SharedFD) -> Bool {
    readers.watch = users(of: dmaBuf) { [unowned self, unowned readers] in done(readers) }
    return readers.watch != nil
  }

  /// Waits for those who use a dma-buf now; nil where that cannot be waited for.
  private func users(of dmaBuf: SharedFD, _ done: @escaping () -> Void) -> FenceWatch? {
    do throws(Errno) {
      let fence = try DmaBufFences.users(of: dmaBuf.raw)
      return try FenceWatch(SharedFD(fence.intoFD()), on: loop, done)
    } catch {
      log.debug("cannot wait for the readers of a buffer: \(error)")
      return nil
    }
  }

  private func done(_ readers: FrameReaders) {
    readers.watch = nil
    // Each plane may lie in a dma-buf of its own.
    if !readers.isOverdue, readers.buffer.others.count > 0, let busy = readers.buffer.busy,
      wait(for: readers, of: busy)
    {
      return
    }
    reading.removeAll { $0 === readers }
    if readers.isOverdue { readers.client?.caughtUp() } else { readers.lock.release() }
  }

  private func expire(_ readers: FrameReaders) {
    guard !readers.isOverdue else { return }
    readers.isOverdue = true
    readers.client?.late += 1
    readers.client?.counted.late &+= 1
    counters.framesLate &+= 1
    readers.lock.release()
  }

  /// The device does not wait any longer for those who have a frame.
  public func expired(_ lock: Hold) {
    for client in clients { client.expireFrames(of: lock) }
    for readers in reading where readers.lock === lock { expire(readers) }
  }

  // MARK: Acquire fences

  /// Waits for the fences of new pictures, and keeps the guest back meanwhile, on behalf of
  /// consumers that cannot wait themselves.
  func awaitAcquire(_ changed: OutputSet) {
    for output in 0..<Scene.outputCount where changed.contains(OutputSet(output)) {
      guard scene.news(of: output).hasPicture, let fence = scene.acquire(output),
        let commit = scene.commit(of: output)
      else { continue }
      if let buffer = commit.buffer, buffer.isOriginal {
        do throws(Errno) {
          try buffer.forEachDescriptor { fd throws(Errno) in
            try DmaBufFences.add(writer: fence.raw, to: fd.raw)
          }
        } catch {
          log.debug("buffer \(buffer.id) carries no fence for implicit readers: \(error)")
        }
      }
      let acquisition = FrameAcquisition(output, fence, commit.lock)
      do throws(Errno) {
        acquisition.watch = try FenceWatch(fence, on: loop) { [unowned self, unowned acquisition] in
          acquired(acquisition)
        }
        acquisitions.append(acquisition)
      } catch {
        log.warning("cannot wait for a frame's fence: \(error)")
        acquisition.lock?.release()
      }
    }
  }

  /// The pixels are there: they go out at the end of the turn.
  private func acquired(_ acquisition: FrameAcquisition) {
    acquisition.watch = nil
    acquisitions.removeAll { $0 === acquisition }
    drawn.append(acquisition)
    for client in clients where client.outputs[acquisition.output].isPending {
      client.wantsMore = true
    }
  }

  // MARK: Revocations

  /// All consumers let go of a revoked buffer, or are gone.
  func closed(_ revocation: FrameRevocation) {
    revocation.readers = revocation.buffer.busy.flatMap { busy in
      users(of: busy) { [unowned self, unowned revocation] in closed(revocation) }
    }
    if revocation.readers == nil { finish(revocation) }
  }

  private func finish(_ revocation: FrameRevocation) {
    revocations.removeAll { $0 === revocation }
    revocation.finish()
  }

  func expireRevocations() {
    let now = Clock.now
    while let first = revocations.first, first.deadline <= now {
      for client in clients { client.expire(first) }
      finish(first)
    }
    armRevocations()
  }

  func armRevocations() {
    guard let first = revocations.first, revocationTimer?.isArmed == false else { return }
    let now = Clock.now
    revocationTimer?.arm(after: first.deadline > now ? first.deadline - now : 1)
  }

  // MARK: Deadlines

  /// Looks at frames in flight at a time, unless it does so before.
  func armLate(_ due: UInt64) {
    guard due < lateDue else { return }
    lateDue = due
    let now = Clock.now
    lateTimer?.arm(after: due > now ? due - now : 1)
  }

  func expireFrames() {
    lateDue = .max
    let now = Clock.now
    var next = UInt64.max
    for client in clients { next = min(next, client.releaseFrames(dueBefore: now)) }
    for readers in reading where !readers.isOverdue {
      if readers.due <= now { expire(readers) } else { next = min(next, readers.due) }
    }
    if next < .max { armLate(next) }
  }

  /// Somebody lacks a copy.
  var isShortOfCopies: Bool { clients.contains { $0.waitsForCopy } }

  /// Looks, soon, after copies that may be taken from those who have kept them for long.
  func reclaimPooled() {
    if clients.contains(where: \.isPooling) { armLate(Clock.now) }
  }

  /// Takes copies back from strangers who have read them for so many nanoseconds, because there is
  /// none for the next frame.
  public func reclaimCopies(after time: UInt64) {
    let now = Clock.now
    for client in clients { client.releaseCopies(sentBefore: now &- min(now, time)) }
  }
}
