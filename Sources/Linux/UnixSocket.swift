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

  /// Who may connect to a path, which the kernel checks.
  public enum Access: Equatable, Sendable {
    /// Our own user: mode 0600.
    case owner
    /// Our own user and a group, by its id: mode 0660.
    case group(UInt32)
    /// Everybody who can reach the path: mode 0666.
    case anyone
    /// Permission bits, of which those to write decide, and the path's group; nil leaves our own.
    case mode(UInt32, group: UInt32?)
  }

  /// Listens on a path that does not exist yet, nonblocking.
  ///
  /// - Parameters:
  ///   - path: gets its mode whatever the umask is, before anybody can connect.
  ///   - access: who may connect.
  ///   - takesDescriptors: false has the kernel refuse descriptors that peers send (`SO_PASSRIGHTS`,
  ///     Linux 6.16), already when they are not accepted yet.
  /// - Returns: a socket that is closed as if it came from outside: whoever is not accepted yet goes
  ///   with it, and with him what he has sent.
  /// - Throws: `EADDRINUSE` where there is a file, `EPERM` where the group is not one of ours.
  public static func listen(
    _ path: String, kind: Kind, backlog: CInt = 8, access: Access = .owner,
    takesDescriptors: Bool = true
  ) throws(Errno) -> OwnedFD {
    let (mode, group): (UInt32, UInt32?) =
      switch access {
      case .owner: (0o600, nil)
      case .group(let id): (0o660, id)
      case .anyone: (0o666, nil)
      case .mode(let mode, let group): (mode, group)
      }
    return OwnedFD(
      adopting: try check(
        ph_unix_listen(
          path, kind.raw, backlog, group.map { Int($0) } ?? -1, mode, takesDescriptors ? 1 : 0),
        "bind"), from: .connection())
  }

  /// Has the kernel refuse descriptors that are sent to a socket from now on, where it can.
  public static func refuseDescriptors(_ fd: CInt) { _ = ph_refuse_descriptors(fd) }

  /// Whether somebody listens on a path; does not wait for room in his backlog.
  ///
  /// - Throws: `ENOENT` and others where there is no socket of this kind.
  public static func isServed(_ path: String, kind: Kind) throws(Errno) -> Bool {
    try check(ph_unix_is_served(path, kind.raw), "connect") == 1
  }

  /// Whether a path is a socket of this kind that nobody listens on any more; does not wait for
  /// room in a backlog.
  ///
  /// - Throws: `ENOTSOCK` where it is a file of another kind, `EPROTOTYPE` a socket of another one.
  public static func isAbandoned(_ path: String, kind: Kind) throws(Errno) -> Bool {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return false }
    guard facts.st_mode & S_IFMT == S_IFSOCK else { throw Errno(ENOTSOCK, "bind") }
    return try !isServed(path, kind: kind)
  }

  /// Milliseconds for which a listener that does not accept is waited for: more than one that works
  /// ever takes, and less than anybody takes for the end.
  public static let patience: UInt32 = 5000

  /// Connects to a listening path; the socket blocks.
  ///
  /// - Parameter patience: milliseconds to wait while more wait already than the listener has room
  ///   for, as when it is stopped; 0 to wait for nobody.
  /// - Throws: `ETIMEDOUT` after that, `EAGAIN` at once where it is 0; `ECONNREFUSED` where nobody
  ///   listens, where there is patience after a tenth of a second: a path is there before its socket
  ///   listens.
  public static func connect(
    _ path: String, kind: Kind, patience: UInt32 = patience
  ) throws(Errno) -> OwnedFD {
    let socket = OwnedFD(
      adopting: try check(ph_unix_connect(path, kind.raw, patience), "connect"))
    if patience == 0 { try setNonblocking(socket.raw, false) }
    return socket
  }

  /// Takes the next connection of a listening socket; `EAGAIN` when there is none.
  ///
  /// It is a sender's, for what he sent and nobody has received is closed with it.
  public static func accept(_ listener: CInt) throws(Errno) -> OwnedFD {
    OwnedFD(adopting: try check(ph_unix_accept(listener), "accept4"), from: .connection())
  }

  /// Ends a connection for its peer, before the socket's last descriptor is closed.
  public static func shutDown(_ fd: CInt) { ph_shut_down(fd) }

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

  /// Bounds what is sent and not read yet, in bytes (socket(7), `SO_SNDBUF`).
  public static func setSendBuffer(_ fd: CInt, _ bytes: CInt) {
    _ = ph_set_send_buffer(fd, bytes)
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
  ///   - maxFDs: surplus descriptors are given to ``Closers``, and `truncated` is set.
  ///   - dontWait: `EAGAIN` instead of blocking.
  ///   - sender: who is at the other end.
  public static func receive(
    _ fd: CInt, into buffer: UnsafeMutableRawBufferPointer, fds: inout [CInt], maxFDs: Int = 8,
    dontWait: Bool = false, from sender: Sender = .ourselves
  ) throws(Errno) -> Received {
    var vector = iovec(iov_base: buffer.baseAddress, iov_len: buffer.count)
    var flags: CInt = 0
    // The kernel closes what there is no room for; whatever can come must have some.
    var storage: InlineArray<253, CInt> = .init(repeating: -1)
    var count = CInt(PH_MAX_FDS)
    var span = storage.mutableSpan
    let n = span.withUnsafeMutableBufferPointer { p in
      ph_recvmsg(fd, &vector, 1, p.baseAddress, &count, dontWait ? ph_MSG_DONTWAIT : 0, &flags)
    }
    let bytes = Int(try check(n, "recvmsg"))
    for i in 0..<min(Int(count), maxFDs) { fds.append(storage[i]) }
    for i in min(Int(count), maxFDs)..<Int(count) { Closers.close(storage[i], from: sender) }
    let truncated = flags & (ph_MSG_TRUNC | ph_MSG_CTRUNC) != 0 || Int(count) > maxFDs
    return Received(count: bytes, truncated: truncated)
  }

  /// Lets as many bytes wait in a socket as the user may have (`SO_SNDBUF`, socket(7)).
  ///
  /// - Parameter bytes: what is asked for; the kernel gives at most `net.core.wmem_max`, doubled.
  /// - Returns: what the socket has afterwards, the kernel's own overhead included.
  @discardableResult
  public static func growSendBuffer(_ fd: CInt, to bytes: CInt) throws(Errno) -> Int {
    let now = try check(ph_send_buffer(fd), "getsockopt(SO_SNDBUF)")
    guard now / 2 < bytes else { return Int(now) }
    try check(ph_set_send_buffer(fd, bytes), "setsockopt(SO_SNDBUF)")
    return Int(try check(ph_send_buffer(fd), "getsockopt(SO_SNDBUF)"))
  }

  /// An upper bound of the bytes sent that the peer has not read (`SIOCOUTQ`, unix(7)).
  public static func unread(_ fd: CInt) throws(Errno) -> Int {
    Int(try check(ph_unread(fd), "ioctl(SIOCOUTQ)"))
  }

  /// Whether `O_NONBLOCK` is set, which others who have the open file can change.
  public static func isNonblocking(_ fd: CInt) -> Bool { ph_is_nonblocking(fd) == 1 }

  /// Sends a run of a file once, by reference where the kernel can (sendfile(2)): until the peer
  /// has read them the bytes must not be changed.
  ///
  /// There is neither MSG_DONTWAIT nor MSG_NOSIGNAL for it: the socket has to be nonblocking, and
  /// the process to ignore SIGPIPE. A signal ends it with `EINTR`.
  ///
  /// - Returns: how many bytes went out.
  /// - Throws: `EAGAIN` when the socket is full, `EPIPE` when the peer is gone, `EINVAL` for files
  ///   that the kernel cannot send so, such as those of huge pages.
  public static func send(
    _ fd: CInt, file: CInt, from offset: UInt64, count: Int
  ) throws(Errno) -> Int {
    Int(try check(ph_sendfile(fd, file, offset, count), "sendfile"))
  }
}
