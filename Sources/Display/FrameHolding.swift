import Buffers
import Fences
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

// What consumers hold, until when, and how it is given back to the device.
extension FrameServer {
  /// How long a copy stays as it is for those who read it: nobody waits for it.
  var copyDeadline: UInt64 { options.holdDeadline.multipliedReportingOverflow(by: 10).partialValue }

  // MARK: Tickets

  /// Lets the clients that are called within share tickets.
  func inOnePresentation(_ body: () -> Void) {
    presented.removeAll(keepingCapacity: true)
    isPresenting = true
    body()
    isPresenting = false
    presented.removeAll(keepingCapacity: true)
  }

  /// A share in what a frame keeps from the device.
  func ticket(_ buffer: OfferedBuffer, hold: Hold?, due: UInt64) -> FrameTicket {
    if let shared = presented.first(where: { $0.covers(buffer, hold) }) {
      shared.shares += 1
      return shared
    }
    let new = spareTickets.popLast() ?? FrameTicket()
    new.begin(buffer, hold: hold, due: due)
    new.shares = 1
    if isPresenting { presented.append(new) }
    return new
  }

  /// Gives a share back. After the last one the buffer's implicit readers are waited for.
  private func giveBack(_ ticket: FrameTicket) {
    ticket.shares -= 1
    guard ticket.shares <= 0, let buffer = ticket.buffer else { return }
    if buffer.memory == .guestPages, ticket.readers == nil, ticket.mayHaveReaders,
      !DmaBufFences.isIdle(buffer.fd.raw), ticket.due > Clock.now, awaitReaders(ticket, buffer)
    {
      return
    }
    hasFreeCopy = hasFreeCopy || buffer.memory == .copy
    ticket.end()
    if ticket.isOverdue {
      counters.framesLate &+= 1
      ticket.last?.late += 1
    } else {
      recycle(ticket)
    }
  }

  private func recycle(_ ticket: FrameTicket) {
    ticket.last = nil
    if spareTickets.count < 64 { spareTickets.append(ticket) }
  }

  private func awaitReaders(_ ticket: FrameTicket, _ buffer: OfferedBuffer) -> Bool {
    do throws(Errno) {
      let fence = try DmaBufFences.users(of: buffer.fd.raw)
      ticket.readers = try FenceWatch(SharedFD(fence.intoFD()), on: loop) {
        [unowned self, unowned ticket] in readersDone(ticket)
      }
      counters.fencesAwaited &+= 1
      reading.append(ticket)
      armLate(ticket.due)
      return true
    } catch {
      log.debug("cannot wait for the readers of buffer \(buffer.id): \(error)")
      return false
    }
  }

  private func readersDone(_ ticket: FrameTicket) {
    ticket.readers = nil
    reading.removeAll { $0 === ticket }
    if ticket.isOverdue {
      ticket.last?.caughtUp()
      recycle(ticket)
    } else {
      ticket.shares = 1
      releases.add(ticket)
    }
    settle()
  }

  // MARK: Acquire fences

  /// Has a frame's fence waited for.
  ///
  /// - Returns: the fence, nil if there is nothing to wait for.
  func waitFor(_ frame: Frame) -> SharedFD? {
    guard let fence = frame.acquire, !SyncFile.isSignalled(fence.raw), !clients.isEmpty else {
      return nil
    }
    if let buffer = frame.buffer, buffer.memory == .guestPages {
      do throws(Errno) { try DmaBufFences.add(writer: fence.raw, to: buffer.fd.raw) } catch {
        log.debug("buffer \(buffer.id) carries no fence for implicit readers: \(error)")
      }
    }
    guard let buffer = frame.buffer else { return fence }
    // Keeps the guest back on behalf of those who get the frame later.
    let acquisition = FrameAcquisition(fence, ticket(buffer, hold: frame.hold, due: .max))
    do throws(Errno) {
      acquisition.watch = try FenceWatch(fence, on: loop) { [unowned self, unowned acquisition] in
        acquired(acquisition)
      }
      acquisitions.append(acquisition)
    } catch {
      log.warning("cannot wait for a frame's fence: \(error)")
      releases.add(acquisition.ticket)
      return nil
    }
    return fence
  }

  private func acquired(_ acquisition: FrameAcquisition) {
    acquisition.watch = nil
    inOnePresentation { for client in clients { client.acquired(acquisition.fence) } }
    releases.add(acquisition.ticket)
    acquisitions.removeAll { $0 === acquisition }
    settle()
  }

  // MARK: Withdrawals

  /// A consumer let go of a withdrawn buffer, or is gone.
  func answered(_ withdrawal: FrameWithdrawal) {
    withdrawal.waiting -= 1
    guard withdrawal.waiting == 0 else { return }
    let buffer = withdrawal.buffer
    if buffer.memory == .guestPages, !DmaBufFences.isIdle(buffer.fd.raw) {
      do throws(Errno) {
        let fence = try DmaBufFences.users(of: buffer.fd.raw)
        withdrawal.readers = try FenceWatch(SharedFD(fence.intoFD()), on: loop) {
          [unowned self, unowned withdrawal] in
          finish(withdrawal)
          settle()
        }
        return
      } catch {
        log.debug("cannot wait for the readers of buffer \(buffer.id): \(error)")
      }
    }
    finish(withdrawal)
  }

  private func finish(_ withdrawal: FrameWithdrawal) {
    withdrawals.removeAll { $0 === withdrawal }
    releases.add(withdrawal.finish())
  }

  func expireWithdrawals() {
    let now = Clock.now
    while let first = withdrawals.first, first.deadline <= now {
      for client in clients { client.expire(first) }
      finish(first)
    }
    armWithdrawals()
    settle()
  }

  func armWithdrawals() {
    guard let first = withdrawals.first, withdrawalTimer?.isArmed == false else { return }
    let now = Clock.now
    withdrawalTimer?.arm(after: first.deadline > now ? first.deadline - now : 1)
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
    for ticket in reading where ticket.buffer != nil {
      if ticket.due <= now {
        ticket.shares = 1
        releases.add(ticket)
      } else {
        next = min(next, ticket.due)
      }
    }
    if next < .max { armLate(next) }
    settle()
  }

  // MARK: Giving back

  /// Gives back what was collected; whoever gets it may call this server again.
  func settle() {
    guard !isSettling else { return }
    isSettling = true
    defer { isSettling = false }
    repeat {
      while let ticket = releases.nextShare() { giveBack(ticket) }
      while let call = releases.nextCall() { call() }
      if hasFreeCopy {
        hasFreeCopy = false
        for client in clients where client.waitsForCopy { client.flush() }
      }
      updateDemand()
    } while !releases.isEmpty || hasFreeCopy
  }
}
