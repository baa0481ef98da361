import CLinux
import Glibc
import Linux

/// Another process that discards pages of a guest's memory and rewrites them, as a balloon and
/// the guest's next use of the pages do.
///
/// It is `pinhole-guest punch`; it ends with its owner.
package final class Puncher {
  private let child: ChildProcess
  private let socket: SharedFD

  /// Starts the process on a file of guest memory.
  ///
  /// - Parameters:
  ///   - file: a memfd, or QEMU's opened through /proc, open for writing.
  ///   - program: the path of `pinhole-guest`; ``guestProgram`` if nil.
  package init(_ file: CInt, program: String? = nil) throws(GuestError) {
    let pair = try doing("puncher") { () throws(Errno) in try UnixSocket.Pair(.stream) }
    var ends: (SharedFD?, SharedFD?) = (nil, nil)
    pair.split { ends = (SharedFD($0), SharedFD($1)) }
    guard let ours = ends.0, let theirs = ends.1 else { throw .closed("the puncher") }
    socket = ours
    child = try ChildProcess.start(
      [program ?? Self.guestProgram, "punch"], fds: [(file, 3), (theirs.raw, 4)])
  }

  /// `PINHOLE_BIN`, or the `pinhole` beside the running program.
  package static var defaultProgram: String {
    if let path = getenv("PINHOLE_BIN") { return String(cString: path) }
    let own = ChildProcess.selfPath
    guard let slash = own.lastIndex(of: "/") else { return "pinhole" }
    return own[...slash] + "pinhole"
  }

  /// The `pinhole-guest` beside ``defaultProgram``.
  package static var guestProgram: String { defaultProgram + "-guest" }

  /// Sends an order and waits until it was carried out.
  @discardableResult
  private func order(_ command: PuncherCommand, then tail: [UInt8] = []) throws(GuestError) -> Int {
    guard WholeBuffer.write(socket.raw, command.bytes + tail),
      let answer = WholeBuffer.read(socket.raw, 8)
    else { throw .closed("an order to the puncher (\(Self.guestProgram))") }
    let result: Int64 = WireBytes.read(answer, 0)
    guard result >= 0 else {
      throw .system("puncher", Errno(CInt(truncatingIfNeeded: -result), "fallocate"))
    }
    return Int(result)
  }

  /// Punches a hole (fallocate(2)) and fills it again, page by page.
  package func discard(
    offset: UInt64, count: UInt64, _ refill: Refill = .hole
  ) throws(GuestError) {
    try order(PuncherCommand(.discard, refill: refill, offset: offset, count: count))
  }

  /// The same with madvise(2) `MADV_REMOVE` in the other process's own mapping.
  package func remove(
    offset: UInt64, count: UInt64, _ refill: Refill = .hole
  ) throws(GuestError) {
    try order(PuncherCommand(.remove, refill: refill, offset: offset, count: count))
  }

  /// Writes without discarding.
  package func rewrite(offset: UInt64, count: UInt64, _ refill: Refill) throws(GuestError) {
    try order(PuncherCommand(.rewrite, refill: refill, offset: offset, count: count))
  }

  /// Chooses the pages that storms hit.
  ///
  /// - Parameters:
  ///   - offsets: bytes from the start of the file.
  ///   - unit: bytes discarded at each of them.
  package func aim(at offsets: [UInt64], unit: UInt64 = 4096) throws(GuestError) {
    var tail = WireBytes()
    for offset in offsets { tail.put(offset) }
    try order(
      PuncherCommand(.pages, offset: unit, count: UInt64(offsets.count)), then: tail.bytes)
  }

  /// Discards pages at random, one after the other.
  ///
  /// - Returns: the number of discards.
  @discardableResult
  package func storm(seed: UInt64, count: Int, _ refill: Refill) throws(GuestError) -> Int {
    try order(PuncherCommand(.storm, refill: refill, count: UInt64(count), seed: seed))
  }

  /// Goes on discarding at random until ``stopStorm()``, as fast as it can.
  ///
  /// - Parameter pause: microseconds between two discards.
  package func startStorm(
    seed: UInt64, pause: UInt32 = 0, _ refill: Refill
  ) throws(GuestError) {
    try order(PuncherCommand(.startStorm, refill: refill, count: UInt64(pause), seed: seed))
  }

  /// Ends what ``startStorm(seed:pause:_:)`` began.
  ///
  /// - Returns: the number of discards.
  @discardableResult
  package func stopStorm() throws(GuestError) -> Int { try order(PuncherCommand(.stopStorm)) }
}
