import Glibc
import Linux

/// Bytes that wait for a socket or for its reader, in memory of our own.
///
/// They leave by sendfile(2), which copies nothing: the socket refers to the pages until the peer
/// has read them, and a byte that is overwritten before that arrives changed. So a run of bytes is
/// used again only when it must have been read: what the peer has not read is at most what
/// SIOCOUTQ says, and what was sent before that many bytes is free.
///
/// Positions count all bytes ever staged in this file; ``RingFile`` maps them to memory.
struct QEMUStage: ~Copyable {
  /// The peer may still have to read bytes from here on.
  private var free: UInt64 = 0
  /// The next byte for the socket.
  private var head: UInt64 = 0
  /// Where the next bytes are staged.
  private var tail: UInt64 = 0
  private var ring: RingFile?
  /// Bytes that the socket may hold at most; see ``QEMUStage/init(socketRoom:)``.
  private let socketRoom: Int
  /// sendfile(2) is not to be had here, and the bytes are sent from their memory: the kernel
  /// refuses it, or somebody has cleared O_NONBLOCK of the socket, without which it would wait.
  private(set) var copies: Bool
  /// Somebody has cleared O_NONBLOCK behind our look at it, and a send waited until the watchdog
  /// interrupted it.
  private(set) var hasWaited = false

  /// More memory than this is given back once nothing waits; a 4K frame is kept.
  private static let kept = 40 << 20
  /// What a socket takes beyond SO_SNDBUF: one buffer of the kernel's.
  private static let slack = 256 << 10

  /// - Parameters:
  ///   - socketRoom: the socket's SO_SNDBUF in bytes.
  ///   - copies: sendfile(2) is not used.
  init(socketRoom: Int, copies: Bool = false) {
    self.socketRoom = socketRoom
    self.copies = copies
  }

  /// Bytes that the socket has not taken.
  var waiting: Int { Int(tail - head) }

  /// Room for bytes after those that wait, to be written before anything is sent.
  ///
  /// - Throws: `ENOMEM` and others of ``RingFile``.
  mutating func reserve(_ count: Int, for socket: CInt) throws(Errno) -> UnsafeMutableRawPointer {
    if head == tail || !hasRoom(count) { lookAtReader(socket) }
    if !hasRoom(count) { try grow(by: count) }
    guard let room = ring?.address(tail) else { throw Errno(ENOMEM, "mmap") }
    tail &+= UInt64(count)
    return room
  }

  /// Takes back the last bytes that were reserved.
  mutating func shorten(by count: Int) { tail -= UInt64(min(count, waiting)) }

  private func hasRoom(_ count: Int) -> Bool {
    guard let size = ring?.count else { return false }
    return UInt64(count) <= UInt64(size) && tail - free <= UInt64(size - count)
  }

  /// Learns how far the peer has read at least.
  private mutating func lookAtReader(_ socket: CInt) {
    guard tail > 0, let unread = try? UnixSocket.unread(socket) else { return }
    if unread == 0, head == tail {
      // From the start again: these pages are still in the processor's cache.
      (free, head, tail) = (0, 0, 0)
    } else {
      free = max(free, head - min(head, UInt64(unread)))
    }
  }

  /// Moves what waits into a larger file; what the peer has not read stays in the old one, whose
  /// pages the kernel keeps as long as it needs them.
  private mutating func grow(by count: Int) throws(Errno) {
    let (wanted, overflow) = (waiting + socketRoom + Self.slack).addingReportingOverflow(count)
    guard !overflow else { throw Errno(ENOMEM, "mmap") }
    let larger = try RingFile("pinhole-stage", count: wanted)
    if waiting > 0, let ring { memcpy(larger.address(0), ring.address(head), waiting) }
    (free, head, tail) = (0, 0, UInt64(waiting))
    ring = larger
  }

  /// Sends what waits, as far as the socket takes it.
  ///
  /// The flag is looked at once, which another owner of the socket can wait for. A look before each
  /// call would cost one more call each and leave him the same gap; so whoever has used it once is
  /// sent copies from then on, by calls that have a flag of their own.
  ///
  /// - Parameters:
  ///   - most: bytes that may go out; the rest waits.
  ///   - isNonblocking: looks at the flag.
  /// - Returns: bytes that went out.
  /// - Throws: what ends the connection, such as `EPIPE`; a full socket does not.
  mutating func drain(
    _ socket: CInt, most: Int = .max, isNonblocking: (CInt) -> Bool = UnixSocket.isNonblocking
  ) throws(Errno) -> Int {
    var sum = 0
    if head < tail, sum < most { checkWaiting(socket, isNonblocking: isNonblocking) }
    while head < tail, sum < most {
      let (refers, pokes) = (!copies, Watchdog.pokes)
      defer { if refers { noteWaiting(since: pokes) } }
      do throws(Errno) {
        let sent = try send(socket, most: most - sum)
        guard sent > 0 else { break }
        head += UInt64(sent)
        sum += sent
      } catch {
        guard try goesOn(after: error) else { return sum }
      }
    }
    if head == tail, let size = ring?.count, size > Self.kept { ring = nil }
    return sum
  }

  /// Sees to it that nothing waits in sendfile(2); to be called before it is.
  mutating func checkWaiting(
    _ socket: CInt, isNonblocking: (CInt) -> Bool = UnixSocket.isNonblocking
  ) {
    if !copies, !isNonblocking(socket) { copies = true }
  }

  /// Tells whether a sendfile(2) was interrupted, after some bytes or none.
  ///
  /// - Parameter pokes: how often the watchdog had interrupted this thread before it.
  mutating func noteWaiting(since pokes: UInt32) {
    if Watchdog.pokes != pokes { (copies, hasWaited) = (true, true) }
  }

  /// What follows from an error of sending: true to try again, from memory; false while the socket
  /// is full.
  ///
  /// - Throws: what ends the connection.
  mutating func goesOn(after error: Errno) throws(Errno) -> Bool {
    switch error.code {
    case EAGAIN, ENOBUFS, ENOMEM: return false
    case EINVAL where !copies, ENOSYS where !copies, EINTR where !copies: copies = true
    default: throw error
    }
    return true
  }

  private borrowing func send(_ socket: CInt, most: Int) throws(Errno) -> Int {
    guard let size = ring?.count else { return 0 }
    let count = min(waiting, size, most)
    if copies {
      let bytes = UnsafeRawBufferPointer(start: ring?.address(head), count: count)
      return try UnixSocket.send(socket, bytes, dontWait: true)
    }
    return try ring?.send(socket, from: head, count: count) ?? 0
  }

  /// Forgets all.
  mutating func clear() {
    ring = nil
    (free, head, tail) = (0, 0, 0)
  }
}
