import Fences
import Linux
import Scene

/// A run of a still picture's bytes on its way into a socket, and the pictures that the socket
/// refers to: all of them are locked until their bytes were read.
struct QEMUStillRun {
  /// Bytes of the stage that go before it.
  var after = 0
  private var still: StillPicture?
  private var rest = 0..<0
  /// What the kernel took, and how many bytes the peer has to have read for it to be free.
  private var unread: [(still: StillPicture, end: UInt64)] = []

  /// Most pictures that a socket refers to.
  private static let most = 16

  init() { unread.reserveCapacity(Self.most) }

  /// There are bytes that the socket has not taken.
  var isWaiting: Bool { still != nil }
  /// The socket refers to pictures that it has taken.
  var isUnread: Bool { !unread.isEmpty }
  /// Whether the socket may refer to one more.
  var hasRoom: Bool { unread.count < Self.most }

  /// Locks a picture, a run of which is sent once so many bytes of the stage were.
  mutating func start(_ picture: StillPicture, _ run: Range<Int>, after: Int) {
    picture.hold.retain()
    still = picture
    rest = run
    self.after = after
  }

  /// Sends bytes once.
  ///
  /// - Parameter copies: the kernel cannot refer to them.
  /// - Returns: how many went out.
  func send(_ socket: CInt, copies: Bool) throws(Errno) -> Int {
    guard let still else { return 0 }
    guard copies else {
      return try UnixSocket.send(
        socket, file: still.file.raw, from: UInt64(rest.lowerBound), count: rest.count)
    }
    let bytes = UnsafeRawBufferPointer(start: still.base + rest.lowerBound, count: rest.count)
    return try UnixSocket.send(socket, bytes, dontWait: true)
  }

  /// So many bytes went out.
  ///
  /// - Parameter sent: all bytes that the socket has taken until now.
  mutating func advance(by count: Int, sent: UInt64) {
    rest = rest.lowerBound + min(count, rest.count)..<rest.upperBound
    guard rest.isEmpty, let done = still else { return }
    still = nil
    unread.append((done, sent))
  }

  /// Unlocks what ends with the first so many bytes.
  mutating func unlock(upTo read: UInt64) {
    while let first = unread.first, first.end <= read {
      unread.removeFirst()
      first.still.hold.release()
    }
  }

  /// Forgets all.
  mutating func abandon(wasRead: Bool) {
    if let still { unread.append((still, 0)) }
    still = nil
    after = 0
    for entry in unread {
      if !wasRead { entry.still.forsake() }
      entry.still.hold.release()
    }
    unread.removeAll(keepingCapacity: true)
  }
}
