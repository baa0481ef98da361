import Glibc
import Linux

/// Looks until something is so, and once more after the time, since a look may take longer than
/// that.
///
/// - Parameter pause: microseconds between two looks.
/// - Returns: false when it was not so within `milliseconds`.
func looksInTime(_ milliseconds: Int, pause: UInt32, _ look: () -> Bool) -> Bool {
  let deadline = Clock.now + UInt64(milliseconds) * 1_000_000
  while true {
    let isLast = Clock.now > deadline
    if look() { return true }
    if isLast { return false }
    usleep(pause)
  }
}
