import CLinux
import Glibc

/// AF_UNIX sockets, unix(7). Descriptors travel with the first byte of a message.
public enum UnixSocket {
  /// `SOCK_STREAM` or `SOCK_SEQPACKET`.
  public enum Kind: Sendable {
    /// A byte stream.
    case stream
    /// Connection-based datagrams.
    case seqpacket
    var raw: CInt { self == .stream ? ph_SOCK_STREAM : ph_SOCK_SEQPACKET }
  }

  /// Who is at the other end, as the kernel saw it at connect time (`SO_PEERCRED`).
  public struct Peer: Sendable {
    /// Process id in our namespace.
    public let pid: Int32
    /// User id.
    public let uid: UInt32
    /// Group id.
    public let gid: UInt32
  }

  /// What one receive brought.
  public struct Received: Sendable {
    /// Bytes of data; 0 at the end of the connection.
    public let count: Int
    /// Part of the datagram or some descriptors did not fit.
    public let truncated: Bool
  }

  /// Listens on a path that does not exist yet, mode 0600, nonblocking.
  public static func listen(
    _ path: String, kind: Kind, backlog: CInt = 8
  ) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try check(ph_unix_listen(path, kind.raw, backlog), "bind"))
  }

  /// Connects to a listening path; the socket blocks.
  public static func connect(_ path: String, kind: Kind) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try check(ph_unix_connect(path, kind.raw), "connect"))
  }

  /// Takes the next connection of a listening socket; `EAGAIN` when there is none.
  public static func accept(_ listener: CInt) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try check(ph_unix_accept(listener), "accept4"))
  }

  /// Two connected sockets.
  public struct Pair: ~Copyable {
    /// One end.
    public var first: OwnedFD
    /// The other.
    public var second: OwnedFD
    /// Makes the pair, socketpair(2).
    public init(_ kind: Kind) throws(Errno) {
      var fds: (CInt, CInt) = (-1, -1)
      try check(
        withUnsafeMutablePointer(to: &fds) {
          $0.withMemoryRebound(to: CInt.self, capacity: 2) { ph_unix_pair(kind.raw, $0) }
        }, "socketpair")
      first = OwnedFD(adopting: fds.0)
      second = OwnedFD(adopting: fds.1)
    }
    /// Gives both ends to new owners.
    public consuming func split(_ body: (consuming OwnedFD, consuming OwnedFD) -> Void) {
      body(first, second)
    }
  }

  /// The peer's credentials.
  public static func peer(of fd: CInt) throws(Errno) -> Peer {
    var pid: Int32 = 0
    var uid: UInt32 = 0
    var gid: UInt32 = 0
    try check(ph_peer_credentials(fd, &pid, &uid, &gid), "getsockopt(SO_PEERCRED)")
    return Peer(pid: pid, uid: uid, gid: gid)
  }

  /// Whether a descriptor is a Unix socket of this kind.
  public static func isSocket(_ fd: CInt, kind: Kind) -> Bool {
    var type: CInt = 0
    return ph_is_unix_socket(fd, &type) == 1 && type == kind.raw
  }

  /// Switches `O_NONBLOCK`.
  public static func setNonblocking(_ fd: CInt, _ on: Bool) throws(Errno) {
    try check(ph_set_nonblocking(fd, on ? 1 : 0), "fcntl(F_SETFL)")
  }

  /// Sends bytes and descriptors once; never raises SIGPIPE.
  ///
  /// - Returns: how many bytes went out (all of them for `SOCK_SEQPACKET`).
  /// - Throws: `EAGAIN` when the socket is full, `EPIPE` when the peer is gone.
  public static func send(
    _ fd: CInt, _ bytes: UnsafeRawBufferPointer, fds: [CInt] = [], dontWait: Bool = false
  ) throws(Errno) -> Int {
    var vector = iovec(
      iov_base: UnsafeMutableRawPointer(mutating: bytes.baseAddress), iov_len: bytes.count)
    let flags = dontWait ? ph_MSG_DONTWAIT : 0
    return Int(
      try check(ph_sendmsg(fd, &vector, 1, fds, CInt(fds.count), flags), "sendmsg"))
  }

  /// Sends a gather list once; see ``send(_:_:fds:dontWait:)``.
  public static func send(
    _ fd: CInt, gather: UnsafeBufferPointer<iovec>, fds: [CInt] = [], dontWait: Bool = false
  ) throws(Errno) -> Int {
    let flags = dontWait ? ph_MSG_DONTWAIT : 0
    return Int(
      try check(
        ph_sendmsg(fd, gather.baseAddress, CInt(gather.count), fds, CInt(fds.count), flags),
        "sendmsg"))
  }

  /// Receives bytes and descriptors once.
  ///
  /// - Parameters:
  ///   - fd: the socket.
  ///   - buffer: where the bytes go.
  ///   - fds: received descriptors are appended; each must be adopted or closed.
  ///   - maxFDs: surplus descriptors are closed by this call, and `truncated` is set.
  ///   - dontWait: `EAGAIN` instead of blocking.
  public static func receive(
    _ fd: CInt, into buffer: UnsafeMutableRawBufferPointer, fds: inout [CInt], maxFDs: Int = 8,
    dontWait: Bool = false
  ) throws(Errno) -> Received {
    var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
    var flags: CInt = 0
    var storage: InlineArray<64, CInt> = .init(repeating: -1)
    var count = CInt(min(maxFDs, 64))
    var span = storage.mutableSpan
    let n = span.withUnsafeMutableBufferPointer { p in
      ph_recvmsg(fd, &vector, 1, p.baseAddress, &count, dontWait ? ph_MSG_DONTWAIT : 0, &flags)
    }
    let bytes = Int(try check(n, "recvmsg"))
    for i in 0..<Int(count) { fds.append(storage[i]) }
    let truncated = flags & (ph_MSG_TRUNC | ph_MSG_CTRUNC) != 0
    return Received(count: bytes, truncated: truncated)
  }
}
