import CLinux
import Glibc
import Linux
import Logging

/// Why frames cannot be served on a path.
public struct FrameListenerError: Error, CustomStringConvertible, Sendable {
  /// What failed, on which path, and what to do.
  public let description: String
}

/// The socket where frame consumers connect; removed with its owner.
final class FrameListener {
  private struct Identity: Equatable {
    let device: dev_t
    let inode: ino_t
  }

  private let path: String
  private let socket: SharedFD
  private let identity: Identity?
  private let loop: EventLoop
  private let log: Logger
  private let connected: (consuming OwnedFD) -> Void
  private var token: EventLoop.Token?
  private var pause: LoopTimer?

  init(
    _ path: String, isOpenToAll: Bool, loop: EventLoop, log: Logger,
    _ connected: @escaping (consuming OwnedFD) -> Void
  ) throws(FrameListenerError) {
    self.path = path
    self.loop = loop
    self.log = log
    self.connected = connected
    do throws(Errno) {
      socket = SharedFD(try Self.bind(path))
      if isOpenToAll { try retrying("chmod") { chmod(path, 0o666) } }
      identity = Self.identity(of: path)
      pause = try LoopTimer(on: loop) { [unowned self] in watch() }
      token = try loop.watch(socket.raw, for: .readable) { [unowned self] _ in accept() }
    } catch {
      let advice =
        error.code == EADDRINUSE
        ? "another process listens there; stop it or choose another path"
        : "choose a path in a directory that exists and is writable"
      throw FrameListenerError(
        description: "cannot listen for frame consumers on \(path): \(error.message); \(advice)")
    }
  }

  deinit {
    if let token { loop.unwatch(token) }
    // Somebody else may have taken the path meanwhile.
    if let identity, Self.identity(of: path) == identity { unlink(path) }
  }

  private static func bind(_ path: String) throws(Errno) -> OwnedFD {
    do throws(Errno) {
      return try UnixSocket.listen(path, kind: .seqpacket)
    } catch {
      guard error.code == EADDRINUSE, isAbandoned(path) else { throw error }
    }
    unlink(path)
    return try UnixSocket.listen(path, kind: .seqpacket)
  }

  /// Whether a path is a socket that nobody listens on.
  private static func isAbandoned(_ path: String) -> Bool {
    var facts = stat()
    guard lstat(path, &facts) == 0, facts.st_mode & S_IFMT == S_IFSOCK else { return false }
    do throws(Errno) {
      _ = try UnixSocket.connect(path, kind: .seqpacket)
      return false
    } catch {
      return error.code == ECONNREFUSED
    }
  }

  private static func identity(of path: String) -> Identity? {
    var facts = stat()
    guard lstat(path, &facts) == 0 else { return nil }
    return Identity(device: facts.st_dev, inode: facts.st_ino)
  }

  private func accept() {
    while true {
      do throws(Errno) {
        connected(try UnixSocket.accept(socket.raw))
      } catch {
        if error.code == EAGAIN { return }
        // Out of descriptors, for instance: without a pause the loop would spin.
        log.warning("cannot accept a frame consumer: \(error)")
        if let token { loop.unwatch(token) }
        token = nil
        pause?.arm(after: 1_000_000_000)
        return
      }
    }
  }

  private func watch() {
    do throws(Errno) {
      token = try loop.watch(socket.raw, for: .readable) { [unowned self] _ in accept() }
    } catch {
      log.error("frame consumers are not accepted any more: \(error)")
    }
  }
}
