import CLinux
import Glibc
import Linux
import Synchronization

/// The one thread that reads the userfaultfd of all witnesses.
///
/// A fault or a removal on a witness means that its page cannot be trusted any more: it is marked
/// first, then a fault is resolved so that whoever touched the page goes on. This thread never
/// unmaps anything: its own munmap would wait for itself.
final class WitnessListener: Sendable {
  let uffd: Userfaultfd
  private let stopEvent: EventFD
  private let table: Locked<[WitnessMarks]>
  private let faultCount = Atomic<UInt64>(0)
  private let removeCount = Atomic<UInt64>(0)
  private let started = Atomic<Bool>(false)
  private let ended = Atomic<Bool>(false)

  init(_ uffd: Userfaultfd) throws(Errno) {
    self.uffd = uffd
    stopEvent = try EventFD()
    table = Locked([])
  }

  /// Faults that were marked and resolved.
  var faults: UInt64 { faultCount.load(ordering: .relaxed) }
  /// Removals that were marked.
  var removals: UInt64 { removeCount.load(ordering: .relaxed) }

  /// Whether ``run()`` was entered.
  var hasStarted: Bool { started.load(ordering: .acquiring) }

  /// Whether faults are still being resolved.
  var isRunning: Bool { !ended.load(ordering: .acquiring) }

  func add(_ marks: WitnessMarks) {
    table.withLock { $0.append(marks) }
  }

  /// No event touches this witness once it returns, so that it can be unmapped.
  func remove(_ marks: WitnessMarks) {
    table.withLock { table in table.removeAll { $0 === marks } }
  }

  func stop() { stopEvent.signal() }

  /// Serves events until ``stop()``.
  func run() {
    started.store(true, ordering: .releasing)
    let room = 16
    let events = UnsafeMutablePointer<ph_uffd_event>.allocate(capacity: room)
    defer {
      ended.store(true, ordering: .releasing)
      events.deallocate()
    }
    var waiting: [ph_uffd_event] = []
    while true {
      let ready = ph_poll2(uffd.fd.raw, stopEvent.fd.raw, waiting.isEmpty ? -1 : 1)
      guard ready >= 0, ready & 2 == 0 else { return }
      if ready & 1 != 0 {
        let count = ph_uffd_read(uffd.fd.raw, events, CInt(room))
        // Nothing to read although poll said so, for ever: the descriptor is broken.
        guard count >= 0 else { return }
        for index in 0..<Int(count) { handle(events[index], &waiting) }
      }
      waiting.removeAll { resolve($0) }
    }
  }

  private func handle(_ event: ph_uffd_event, _ waiting: inout [ph_uffd_event]) {
    switch event.kind {
    case UInt32(ph_UFFD_FAULT):
      _ = faultCount.add(1, ordering: .relaxed)
      mark(event.start, event.start &+ 1)
      if !resolve(event) { waiting.append(event) }
    case UInt32(ph_UFFD_REMOVE):
      _ = removeCount.add(1, ordering: .relaxed)
      mark(event.start, event.end)
    default: break
    }
  }

  private func mark(_ start: UInt64, _ end: UInt64) {
    table.withLock { table in
      for marks in table {
        let base = UInt64(marks.base)
        let from = max(start, base)
        let to = min(end, base &+ marks.size)
        if from < to { marks.mark(PageSpan(offset: from &- base, count: to &- from)) }
      }
    }
  }

  /// Maps the page that was touched; false if that must be tried again after other events.
  ///
  /// The lock keeps the witness from being unmapped meanwhile.
  private func resolve(_ event: ph_uffd_event) -> Bool {
    table.withLock { table in
      guard let marks = table.first(where: { $0.contains(address: event.start) }) else {
        return true
      }
      let address = event.start & ~(marks.pageSize &- 1)
      guard let page = UnsafeMutableRawPointer(bitPattern: UInt(address)) else { return true }
      return fill(page, marks, isMinor: event.minor != 0)
    }
  }

  private func fill(
    _ page: UnsafeMutableRawPointer, _ marks: WitnessMarks, isMinor: Bool
  ) -> Bool {
    var present = isMinor
    // The file may change between the event and now, either way; each turn tries the other way.
    for _ in 0..<8 {
      let r =
        present
        ? ph_uffd_continue(uffd.fd.raw, page, marks.pageSize)
        : zero(page, marks)
      switch r {
      case 1...: return true
      case Int64(-EAGAIN): return false
      case Int64(-EEXIST) where present:
        // Mapped meanwhile, so only the sleeper is left to be woken.
        _ = ph_uffd_wake(uffd.fd.raw, page, marks.pageSize)
        return true
      case Int64(-EEXIST), Int64(-EFAULT): present.toggle()
      default:
        // Out of memory, or of huge pages: a toucher that is woken would fault again, for ever.
        giveUp(marks)
        return true
      }
    }
    _ = ph_uffd_wake(uffd.fd.raw, page, marks.pageSize)
    return true
  }

  /// Leaves the pages of a witness to the kernel, which wakes all who wait and tells them itself
  /// what it cannot give: SIGBUS. The witness proves nothing any more.
  private func giveUp(_ marks: WitnessMarks) {
    marks.giveUp()
    guard let base = UnsafeRawPointer(bitPattern: marks.base) else { return }
    uffd.unregister(base, marks.mappedSize)
  }

  /// Fills a hole with zeros. The kernel has no UFFDIO_ZEROPAGE for huge pages.
  private func zero(_ page: UnsafeMutableRawPointer, _ marks: WitnessMarks) -> Int64 {
    if marks.pageSize == UInt64(pageSize) {
      return ph_uffd_zeropage(uffd.fd.raw, page, marks.pageSize)
    }
    guard let zeros = ph_map_zeros(marks.pageSize) else { return Int64(-ENOMEM) }
    defer { ph_unmap(zeros, marks.pageSize) }
    return ph_uffd_copy(uffd.fd.raw, page, zeros, marks.pageSize)
  }
}
