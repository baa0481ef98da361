import CLinux
import Glibc

/// A socket where others connect, served by an event loop; its path goes with it. It belongs to the
/// loop's thread.
public final class Listener {
  /// Where it listens.
  public enum Place {
    /// A path; a socket there that nobody listens on any more is replaced.
    case path(
      String, UnixSocket.Kind, access: UnixSocket.Access = .owner, takesDescriptors: Bool = true)
    /// TCP, for this machine alone: a numeric address of 127.0.0.0/8 or ::1, and a port, 0 for any
    /// that is free.
    case loopback(String, port: UInt16)
    /// A socket that listens already; its path is not ours to remove.
    case adopted(SharedFD)
  }

  /// Which file a path leads to.
  private struct Identity: Equatable {
    let device: dev_t
    let inode: ino_t

    init?(_ path: String) {
      var facts = stat()
      guard lstat(path, &facts) == 0 else { return nil }
      device = facts.st_dev
      inode = facts.st_ino
    }
  }

  /// Newcomers of a crowd that are taken at once, and how many a second after these: whoever comes
  /// and goes all the time costs the others next to nothing.
  private static let burst = 40.0
  private static let perSecond = 20
  private static let second: UInt64 = 1_000_000_000
  /// Nobody is taken for so long while too much waits to be closed (``Closers``).
  private static let jam: UInt64 = 100_000_000

  /// Gets each connection, nonblocking ones of TCP.
  public var connected: (consuming OwnedFD) -> Void = { _ in }
  /// Told when a connection cannot be accepted, or not waited for; that is tried again in a second.
  public var failed: (Errno) -> Void = { _ in }
  private let loop: EventLoop
  private var socket: SharedFD?
  private var path: String?
  private var identity: Identity?
  private let isTCP: Bool
  private let isCrowd: Bool
  private var token: EventLoop.Token?
  private var rest: LoopTimer?
  private var isPaused = false
  private var recent = 0.0
  private var lastCame: UInt64 = 0

  /// Listens from the loop's next turn on.
  ///
  /// - Parameter isCrowd: anybody may come and go: few a second are taken.
  /// - Throws: ``ListenError``.
  public init(_ place: Place, isCrowd: Bool = false, on loop: EventLoop) throws(ListenError) {
    self.loop = loop
    self.isCrowd = isCrowd
    if case .loopback = place { isTCP = true } else { isTCP = false }
    do throws(Errno) {
      switch place {
      case .path(let path, let kind, let access, let takesDescriptors):
        socket = SharedFD(try Self.bind(path, kind, access, takesDescriptors))
        self.path = path
        identity = Identity(path)
      case .loopback(let host, let port):
        socket = SharedFD(
          OwnedFD(adopting: try check(ph_loopback_listen(host, port, 8), "bind")))
      case .adopted(let socket): self.socket = socket
      }
      rest = LoopTimer(on: loop) { [unowned self] in watch() }
    } catch {
      stop()
      throw ListenError(place: place.name, error: error)
    }
    watch()
  }

  deinit { stop() }

  /// The port of TCP, 0 for a path.
  public var port: UInt16 { UInt16(exactly: socket.map { ph_tcp_port($0.raw) } ?? 0) ?? 0 }

  /// Whoever connects waits in the socket's backlog until ``resume()``.
  public func pause() {
    isPaused = true
    unwatch()
  }

  /// Takes connections again.
  ///
  /// - Parameter nanoseconds: how long not yet.
  public func resume(after nanoseconds: UInt64 = 0) {
    isPaused = false
    if nanoseconds > 0 { rest?.arm(after: nanoseconds) } else { watch() }
  }

  /// Ends it and removes the path; does not wait for the socket's close (``Closers``).
  public func stop() {
    unwatch()
    rest = nil
    socket = nil
    // Somebody else may have taken the path meanwhile.
    if let path, let identity, identity == Identity(path) { unlink(path) }
    path = nil
  }

  private static func bind(
    _ path: String, _ kind: UnixSocket.Kind, _ access: UnixSocket.Access, _ takesDescriptors: Bool
  ) throws(Errno) -> OwnedFD {
    func listen() throws(Errno) -> OwnedFD {
      try UnixSocket.listen(path, kind: kind, access: access, takesDescriptors: takesDescriptors)
    }
    do throws(Errno) { return try listen() } catch {
      guard error.code == EADDRINUSE, try UnixSocket.isAbandoned(path, kind: kind) else {
        throw error
      }
    }
    unlink(path)
    return try listen()
  }

  private func watch() {
    guard let socket, token == nil, !isPaused else { return }
    do throws(Errno) {
      token = try loop.watch(socket.raw, for: .readable) { [unowned self] _ in accept() }
    } catch {
      failed(error)
      rest?.arm(after: Self.second)
    }
  }

  private func unwatch() {
    if let token { loop.unwatch(token) }
    token = nil
    rest?.disarm()
  }

  /// Takes one newcomer a turn, and of a crowd few a second.
  private func accept() {
    guard let socket else { return }
    // Each newcomer may bring more that does not close.
    if isCrowd ? Closers.isCrowded : Closers.isFull {
      unwatch()
      rest?.arm(after: Self.jam)
      return
    }
    do throws(Errno) {
      let connection = try UnixSocket.accept(socket.raw)
      if isTCP {
        try UnixSocket.setNonblocking(connection.raw, true)
        try check(ph_tcp_prepare(connection.raw), "setsockopt")
      }
      connected(connection)
      guard isCrowd else { return }
      recent = recent(at: Clock.now) + 1
      if recent > Self.burst, !isPaused {
        unwatch()
        rest?.arm(after: Self.second / UInt64(Self.perSecond))
      }
    } catch {
      if error.code == EAGAIN { return }
      failed(error)
      // Out of descriptors, for instance: without a pause the loop would spin.
      guard !isPaused else { return }
      unwatch()
      rest?.arm(after: Self.second)
    }
  }

  /// How many of those that came lately count, which becomes less with time.
  private func recent(at now: UInt64) -> Double {
    defer { lastCame = now }
    let passed = Double(now &- lastCame) / Double(Self.second)
    return max(0, recent - passed * Double(Self.perSecond))
  }
}

extension Listener.Place {
  /// As an operator calls it.
  fileprivate var name: String {
    switch self {
    case .path(let path, _, _, _): path
    case .loopback(let host, let port): "\(host) port \(port)"
    case .adopted: "the socket that was handed over"
    }
  }
}

/// Why nobody can connect.
public struct ListenError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The path or address.
  public let place: String
  /// What failed; `ENOTSOCK` where the path is a file of another kind.
  public let error: Errno

  /// Names what failed where.
  public init(place: String, error: Errno) {
    self.place = place
    self.error = error
  }

  /// What failed, on what, and what the operator can do.
  public var description: String { "cannot listen on \(place): \(error.message); \(advice)" }

  private var advice: String {
    switch error.code {
    case EADDRINUSE: "another process listens there; stop it or choose another place"
    case ENOTSOCK: "there is a file that is no socket; remove it or choose another path"
    case EPERM: "choose a group that this user is a member of"
    case EADDRNOTAVAIL:
      "only this machine may connect: listen on 127.0.0.1 and come through ssh -L"
    case EINVAL: "give a numeric address such as 127.0.0.1:5900, or a path with a slash"
    default: "choose a path in a directory that exists and is writable, or a port above 1023"
    }
  }
}
