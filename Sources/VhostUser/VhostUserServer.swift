import GuestMemory
import Linux
import Logging
import Virtqueue

/// Serves one front-end after another with the same device.
public final class VhostUserServer {
  /// Called when a session ended, with the reason; the next one is waited for if listening.
  public var sessionEnded: ((VhostUserError) -> Void)?
  /// See ``VhostUserSession/displaySocketArrived``.
  public var displaySocketArrived: ((consuming OwnedFD) -> Void)?
  /// The present front-end.
  public private(set) var session: VhostUserSession?

  private let device: any VirtioDevice
  private let memory: GuestMemory
  private let loop: EventLoop
  private let logger: Logger
  private var listener: Listener?

  /// A server that does nothing yet.
  public init(
    device: any VirtioDevice, memory: GuestMemory, loop: EventLoop, logger: Logger
  ) {
    self.device = device
    self.memory = memory
    self.loop = loop
    self.logger = logger
    loop.everyTurn { [weak self] in self?.session?.checkMemory() }
  }

  /// Listens on a path; a socket there that nobody listens on is replaced.
  public func listen(on path: String) throws(ListenError) {
    try listen(.path(path, .stream))
  }

  /// Takes over a socket that listens already; its path is not ours to remove.
  public func listen(on socket: SharedFD) throws(ListenError) { try listen(.adopted(socket)) }

  private func listen(_ place: Listener.Place) throws(ListenError) {
    let listener = try Listener(place, on: loop)
    listener.failed = { [logger] in
      logger.error("cannot accept a front-end: \($0); trying again in a second")
    }
    listener.connected = { [unowned self] in accept($0) }
    self.listener = listener
  }

  /// Serves a front-end that is connected already.
  public func serve(_ socket: consuming OwnedFD) throws(Errno) {
    session = try VhostUserSession(
      socket, device: device, memory: memory, loop: loop, logger: logger
    ) { [weak self] reason in self?.ended(reason) }
    session?.displaySocketArrived = { [weak self] in self?.displaySocketArrived?($0) }
  }

  /// Ends the session, stops listening and removes the socket's path.
  public func stop() {
    listener = nil
    session?.close()
    session = nil
  }

  /// The next front-end waits in the socket's backlog.
  private func accept(_ socket: consuming OwnedFD) {
    listener?.pause()
    do throws(Errno) {
      try serve(socket)
      logger.info("a front-end has connected")
    } catch {
      logger.error("cannot serve a front-end: \(error); trying again in a second")
      listener?.resume(after: 1_000_000_000)
    }
  }

  private func ended(_ reason: VhostUserError) {
    session = nil
    if case .frontEndClosed = reason {
      logger.info("\(reason)")
    } else if reason != .closedHere {
      logger.error("the front-end's connection is closed: \(reason)")
    }
    listener?.resume()
    sessionEnded?(reason)
  }
}
