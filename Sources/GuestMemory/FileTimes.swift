import CLinux
import Linux

/// The times of a file at some moment: a cheap question before an expensive one.
///
/// A discard in a memfd sets both. Since Linux 6.13 they are so fine (multigrain timestamps) that
/// a discard after somebody has read them changes them, always: then unchanged times prove that
/// nothing was discarded. A discard sets them when it is over, and until then a touch of its pages
/// waits; so a guest that has written into a new page has changed the times before.
public struct FileTimes: Equatable, Sendable {
  /// Last modification in nanoseconds.
  public let mtime: Int64
  /// Last change of the inode in nanoseconds.
  public let ctime: Int64

  /// Asks the kernel (fstat(2)); nil if it does not answer.
  public init?(of fd: CInt) {
    var mtime: Int64 = 0
    var ctime: Int64 = 0
    guard ph_stat_times(fd, &mtime, &ctime) == 0 else { return nil }
    self.mtime = mtime
    self.ctime = ctime
  }

  /// Tries on a memfd of our own whether every discard changes the times, back to back.
  ///
  /// - Parameter rounds: discards to try; a clock that is too coarse fails one of the first.
  static func areExact(rounds: Int = 256) -> Bool {
    do throws(Errno) {
      let page = UInt64(pageSize)
      let fd = try MemFD.create("times", size: 2 * pageSize, seals: [.shrink, .grow])
      let memory = try Mapping(fd: fd.raw, offset: 0, count: 2 * pageSize, writable: true)
      for round in 0..<rounds {
        // A page that is there, a hole again, and a page beside the one that is there.
        if round % 3 != 1 { memory.bytes[0] = 1 }
        guard let before = FileTimes(of: fd.raw) else { return false }
        try MemFD.punchHole(fd.raw, offset: round % 3 == 2 ? page : 0, count: page)
        guard let after = FileTimes(of: fd.raw), after.mtime != before.mtime,
          after.ctime != before.ctime
        else { return false }
      }
      return true
    } catch { return false }
  }
}
