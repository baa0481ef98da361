import Glibc
import GuestMemory
import Linux
import Logging

/// Why no front-end can connect.
public enum ListenError: Error, Equatable, Sendable, CustomStringConvertible {
  /// Somebody listens there already.
  case inUse(String)
  /// There is a file at the path which is not a socket.
  case notASocket(String)
  /// A system call failed.
  case failed(String, Errno)

  /// What failed, and what the operator can do.
  public var description: String {
    switch self {
    case .inUse(let path):
      return "\(path) is in use: another process listens there; stop it or choose another path"
    case .notASocket(let path): return "\(path) exists and is not a socket; remove it first"
    case .failed(let path, let errno): return "cannot listen on \(path): \(errno)"
    }
  }
}

/// Serves one front-end after another with the same device.
public final class VhostUserServer {
  /// Called when a session ended, with the reason; the next one is waited for if listening.
  public var sessionEnded: ((VhostUserError) -> Void)?
  /// The present front-end.
  public private(set) var session: VhostUserSession?

  private let device: any VhostUserDevice
  private let memory: GuestMemory
  private let loop: EventLoop
  private let logger: Logger
  private var listener: SharedFD?
  private var token: EventLoop.Token?
  private var path: String?
  private var identity: FileIdentity?
  private var retry: LoopTimer?

  /// A server that does nothing yet.
  public init(
    device: any VhostUserDevice, memory: GuestMemory, loop: EventLoop, logger: Logger
  ) {
    self.device = device
    self.memory = memory
    self.loop = loop
    self.logger = logger
    loop.everyTurn { [weak self] in self?.session?.checkMemory() }
  }

  /// Listens on a path; a socket there that nobody listens on is replaced.
  public func listen(on path: String) throws(ListenError) {
    try Self.clear(path)
    do throws(Errno) {
      listener = SharedFD(try UnixSocket.listen(path, kind: .stream))
      self.path = path
      identity = FileIdentity(path)
      retry = try LoopTimer(on: loop) { [unowned self] in waitForFrontEnd() }
    } catch {
      stop()
      throw error.code == EADDRINUSE ? .inUse(path) : .failed(path, error)
    }
    waitForFrontEnd()
  }

  /// Serves a front-end that is connected already.
  public func serve(_ socket: consuming OwnedFD) throws(Errno) {
    session = try VhostUserSession(
      socket, device: device, memory: memory, loop: loop, logger: logger
    ) { [weak self] reason in self?.ended(reason) }
  }

  /// Ends the session, stops listening and removes the socket's path.
  public func stop() {
    if let token { loop.unwatch(token) }
    token = nil
    listener = nil
    retry = nil
    // Only the socket that was made here: somebody may have put another one in its place.
    if let path, let identity, identity == FileIdentity(path) { unlink(path) }
    path = nil
    session?.close()
    session = nil
  }

  private func waitForFrontEnd() {
    guard let listener, token == nil, session == nil else { return }
    do throws(Errno) {
      token = try loop.watch(listener.raw, for: .readable) { [weak self] _ in self?.accept() }
    } catch {
      logger.error("cannot watch the listening socket: \(error)")
    }
  }

  private func accept() {
    guard let listener, session == nil else { return }
    do throws(Errno) {
      let socket = try UnixSocket.accept(listener.raw)
      pause()
      try serve(socket)
      logger.info("a front-end has connected")
    } catch {
      guard error.code != EAGAIN else { return }
      logger.error("cannot accept a front-end: \(error); trying again in a second")
      pause()
      retry?.arm(after: 1_000_000_000)
    }
  }

  /// The next front-end waits in the socket's backlog.
  private func pause() {
    if let token { loop.unwatch(token) }
    token = nil
  }

  private func ended(_ reason: VhostUserError) {
    session = nil
    if case .frontEndClosed = reason {
      logger.info("\(reason)")
    } else if reason != .closedHere {
      logger.error("the front-end's connection is closed: \(reason)")
    }
    waitForFrontEnd()
    sessionEnded?(reason)
  }

  /// Removes a socket that nobody listens on.
  private static func clear(_ path: String) throws(ListenError) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return }
    guard facts.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path) }
    do throws(Errno) {
      _ = try UnixSocket.connect(path, kind: .stream)
    } catch {
      guard error.code == ECONNREFUSED else { throw .failed(path, error) }
      unlink(path)
      return
    }
    throw .inUse(path)
  }
}

/// Which file a path leads to.
private struct FileIdentity: Equatable {
  let device: UInt
  let inode: UInt

  init?(_ path: String) {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return nil }
    device = UInt(facts.st_dev)
    inode = UInt(facts.st_ino)
  }
}
