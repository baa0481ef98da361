import Buffers
import FrameWire
import Glibc
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

/// Shows frames to consumers on a Unix socket, as Protocol/README.md describes.
///
/// It lives in the event loop's thread and never waits: a consumer that does not read or answer
/// costs the guest at most one deadline, and the others nothing.
public final class FrameServer: DisplaySink {
  /// How the server treats its consumers; times are nanoseconds.
  public struct Options: Sendable {
    /// Frames of one output without FRAME_DONE.
    public var maxInFlight = 2
    /// After this a frame in flight is given back to the guest.
    public var holdDeadline: UInt64 = 40_000_000
    /// After this a removed buffer counts as closed.
    public var closeDeadline: UInt64 = 40_000_000
    /// After this a connection without CONSUMER_HELLO ends.
    public var helloDeadline: UInt64 = 5_000_000_000
    /// Connections at a time.
    public var maxConsumers = 32
    /// Users that may connect beside our own and root.
    public var allowedUsers: Set<UInt32> = []

    /// The defaults.
    public init() {}
  }

  /// What happened since the start.
  public struct Counters: Sendable, Equatable {
    /// Connections that said CONSUMER_HELLO.
    public var consumers: UInt64 = 0
    /// Connections refused or ended with an ERROR.
    public var refused: UInt64 = 0
    /// FRAME messages sent.
    public var framesSent: UInt64 = 0
    /// FRAME_DONE messages received.
    public var framesDone: UInt64 = 0
    /// Frames that were not released before the hold deadline.
    public var framesLate: UInt64 = 0
    /// Frames that a consumer did not get because it was behind.
    public var dropped: UInt64 = 0
    /// Buffers that a consumer did not close before the close deadline.
    public var closesLate: UInt64 = 0
  }

  /// Who shows its pictures to each new consumer.
  public weak var source: (any DisplaySource)?
  /// Called when the first consumer came (true) or the last one left (false).
  public var onDemandChanged: ((Bool) -> Void)?
  /// What happened since the start.
  public internal(set) var counters = Counters()
  /// Consumers connected now.
  public private(set) var consumers = 0
  /// How consumers are treated.
  public let options: Options

  let loop: EventLoop
  let log: Logger
  var clients: [FrameClient] = []
  var releases = FrameReleases()
  private var isSettling = false
  private var hadDemand = false
  private var withdrawals: [FrameWithdrawal] = []
  private var withdrawalTimer: LoopTimer?
  private var lateTimer: LoopTimer?
  private var listener: FrameListener?
  private var lastCursor: (serial: UInt64, file: SharedFD)?
  private let scratch: UnsafeMutableRawBufferPointer
  private var fds: [CInt] = []

  /// Makes a server without a socket; see ``listen(_:)``.
  public init(loop: EventLoop, options: Options = Options(), log: Logger) throws(Errno) {
    self.loop = loop
    self.options = options
    self.log = log
    scratch = .allocate(byteCount: Int(PINHOLE_MAX_MESSAGE), alignment: 8)
    withdrawalTimer = try LoopTimer(on: loop) { [unowned self] in expireWithdrawals() }
    lateTimer = try LoopTimer(on: loop) { [unowned self] in expireFrames() }
  }

  deinit {
    for client in clients {
      if let token = client.token { loop.unwatch(token) }
      for share in client.takeShares() { share.giveBack() }
    }
    for withdrawal in withdrawals { withdrawal.finish()?() }
    scratch.deallocate()
  }

  /// Listens on a path, mode 0600; a socket that nobody serves any more is replaced.
  ///
  /// - Throws: ``FrameListenerError``.
  public func listen(_ path: String) throws(FrameListenerError) {
    listener = try FrameListener(path, loop: loop, log: log) { [unowned self] socket in
      serve(socket)
    }
  }

  /// Tells every consumer that it is over, and removes the socket.
  public func close() {
    listener = nil
    for client in clients {
      end(
        client,
        MalformedMessage(code: PINHOLE_ERROR_SHUTDOWN, type: 0, text: "the producer ends"))
    }
    settle()
  }

  // MARK: DisplaySink

  /// Whether any consumer is connected.
  public var wantsBuffers: Bool { consumers > 0 }

  /// Tells all consumers of an output's size.
  public func output(_ index: Int, resized size: (width: UInt32, height: UInt32)?) {
    for client in clients { client.output(index, resized: size) }
    settle()
  }

  /// Sends a frame to all consumers, or keeps it for those that are behind.
  public func present(_ frame: Frame) {
    guard let buffer = frame.buffer else { return }
    let now = Clock.now
    for client in clients { client.present(frame, buffer, timestamp: now) }
    settle()
  }

  /// Takes a generation back from all consumers that know it.
  ///
  /// - Parameter released: called at once if none does, else when all have answered, or at the
  ///   close deadline.
  public func withdraw(
    _ buffer: OfferedBuffer, reason: WithdrawReason, released: @escaping () -> Void
  ) {
    let key = FrameBufferKey(id: buffer.id, generation: buffer.generation)
    let withdrawal = FrameWithdrawal(
      key, deadline: Clock.now &+ options.closeDeadline, released)
    // Counts as an answer of our own, so that none of the consumers' is the last too early.
    withdrawal.waiting = 1
    withdrawals.append(withdrawal)
    for client in clients { client.withdraw(key, reason, withdrawal) }
    answered(withdrawal)
    armWithdrawals()
    settle()
  }

  /// Tells all consumers of a cursor.
  public func cursor(_ state: CursorState, imageChanged: Bool) {
    for client in clients { client.cursor(state) }
    settle()
  }

  // MARK: Connections

  /// Takes over a connected `SOCK_SEQPACKET` socket.
  package func serve(_ socket: consuming OwnedFD) {
    do throws(Errno) {
      let peer = try UnixSocket.peer(of: socket.raw)
      if let refusal = refusal(of: peer) { return refuse(socket.raw, refusal, peer) }
      let client = FrameClient(socket, peer: peer, server: self)
      client.token = try loop.watch(client.socket.raw, for: .readable) {
        [unowned self, unowned client] events in
        ready(client, events)
      }
      client.helloTimer = try LoopTimer(on: loop) { [unowned self, unowned client] in
        end(
          client,
          MalformedMessage(
            code: PINHOLE_ERROR_TIMEOUT, type: PINHOLE_CONSUMER_HELLO.rawValue,
            text: "CONSUMER_HELLO did not come in time"))
        settle()
      }
      client.helloTimer?.arm(after: options.helloDeadline)
      clients.append(client)
    } catch {
      log.warning("cannot serve a frame consumer: \(error)")
    }
  }

  private func refusal(of peer: UnixSocket.Peer) -> MalformedMessage? {
    let isAllowed = peer.uid == geteuid() || peer.uid == 0
    guard isAllowed || options.allowedUsers.contains(peer.uid) else {
      return MalformedMessage(
        code: PINHOLE_ERROR_DENIED, type: 0, text: "user \(peer.uid) may not look")
    }
    guard clients.count < options.maxConsumers else {
      return MalformedMessage(
        code: PINHOLE_ERROR_LIMIT, type: 0, text: "there are \(clients.count) consumers already")
    }
    return nil
  }

  private func refuse(_ socket: CInt, _ refusal: MalformedMessage, _ peer: UnixSocket.Peer) {
    counters.refused &+= 1
    log.warning("frame consumer (process \(peer.pid)) refused: \(refusal.text)")
    do throws(Errno) {
      try FrameClient.send(pinhole_error(refusal), to: socket)
    } catch {
      log.debug("frame consumer (process \(peer.pid)) did not hear why: \(error)")
    }
  }

  private func ready(_ client: FrameClient, _ events: EventLoop.Events) {
    if events.contains(.writable), client.isBlocked, let token = client.token {
      client.isBlocked = false
      watch(client, token, .readable)
      client.flush()
    }
    // One packet a turn: the loop comes back for more, and the others get their turn too.
    if !client.isGone { receive(client) }
    settle()
  }

  /// Takes one packet.
  private func receive(_ client: FrameClient) {
    fds.removeAll(keepingCapacity: true)
    defer { for fd in fds { _ = Glibc.close(fd) } }
    do throws(Errno) {
      let received = try UnixSocket.receive(
        client.socket.raw, into: scratch, fds: &fds, maxFDs: Int(PINHOLE_MAX_FDS), dontWait: true)
      guard received.count > 0 else { return end(client, nil) }
      handle(client, received)
    } catch {
      if error.code != EAGAIN { end(client, nil) }
    }
  }

  private func handle(_ client: FrameClient, _ received: UnixSocket.Received) {
    do throws(MalformedMessage) {
      if received.truncated {
        throw MalformedMessage(type: 0, text: "the packet or its descriptors are too many")
      }
      let packet = UnsafeRawBufferPointer(rebasing: scratch[..<received.count])
      try client.handle(FrameRequest(packet, fds: fds.count))
    } catch {
      end(client, error)
    }
  }

  /// A consumer introduced itself: shows it what is on screen.
  func greeted(_ client: FrameClient) {
    var hello = pinhole_producer_hello.empty()
    hello.magic = PINHOLE_MAGIC
    hello.version = PINHOLE_VERSION
    hello.max_in_flight = UInt32(clamping: options.maxInFlight)
    hello.hold_deadline_us = UInt32(clamping: options.holdDeadline / 1000)
    hello.close_deadline_us = UInt32(clamping: options.closeDeadline / 1000)
    hello.max_outputs = PINHOLE_MAX_OUTPUTS
    WireText.write("pinhole", to: &hello.name)
    guard client.send(hello) else { return end(client, nil) }
    consumers += 1
    counters.consumers &+= 1
    log.info("\(client.label) connected")
    updateDemand()
    source?.replay(to: FrameNewcomer(client))
  }

  /// Ends a connection, with an ERROR if there is something to say.
  func end(_ client: FrameClient, _ fault: MalformedMessage?) {
    guard !client.isGone else { return }
    client.isGone = true
    if let fault {
      counters.refused &+= 1
      if fault.code != PINHOLE_ERROR_SHUTDOWN {
        let message = fault.type == 0 ? "" : " \(WireName.message(fault.type))"
        log.warning(
          "\(client.label) dropped: \(WireName.error(fault.code.rawValue))\(message): \(fault.text)"
        )
      }
      do throws(Errno) {
        try FrameClient.send(pinhole_error(fault), to: client.socket.raw)
      } catch {
        log.debug("\(client.label) did not hear why: \(error)")
      }
    } else {
      log.info("\(client.label) disconnected")
    }
    if let token = client.token { loop.unwatch(token) }
    client.helloTimer = nil
    clients.removeAll { $0 === client }
    client.releaseAll()
    if client.isGreeted { consumers -= 1 }
  }

  /// Waits until a socket has room.
  func waitForRoom(_ client: FrameClient) {
    guard !client.isBlocked, let token = client.token else { return }
    client.isBlocked = true
    watch(client, token, [.readable, .writable])
  }

  private func watch(
    _ client: FrameClient, _ token: EventLoop.Token, _ events: EventLoop.Events
  ) {
    do throws(Errno) {
      try loop.change(token, to: events)
    } catch {
      log.warning("\(client.label): \(error)")
      end(client, nil)
    }
  }

  // MARK: Deadlines

  /// A consumer let go of a withdrawn buffer, or is gone.
  func answered(_ withdrawal: FrameWithdrawal) {
    withdrawal.waiting -= 1
    if withdrawal.waiting == 0 { finish(withdrawal) }
  }

  private func finish(_ withdrawal: FrameWithdrawal) {
    withdrawals.removeAll { $0 === withdrawal }
    releases.add(withdrawal.finish())
  }

  private func expireWithdrawals() {
    let now = Clock.now
    while let first = withdrawals.first, first.deadline <= now {
      for client in clients { client.expire(first) }
      finish(first)
    }
    armWithdrawals()
    settle()
  }

  private func armWithdrawals() {
    guard let first = withdrawals.first, withdrawalTimer?.isArmed == false else { return }
    let now = Clock.now
    withdrawalTimer?.arm(after: first.deadline > now ? first.deadline - now : 1)
  }

  func sentFrame() {
    counters.framesSent &+= 1
    if lateTimer?.isArmed == false { lateTimer?.arm(after: options.holdDeadline) }
  }

  private func expireFrames() {
    let now = Clock.now
    let limit = now > options.holdDeadline ? now - options.holdDeadline : 0
    var oldest: UInt64?
    for client in clients {
      if let sent = client.releaseFrames(sentBefore: limit) {
        oldest = min(oldest ?? .max, sent)
      }
    }
    if let oldest { lateTimer?.arm(after: oldest - limit) }
    settle()
  }

  // MARK: Giving back

  /// Gives back what was collected; whoever gets it may call this server again.
  private func settle() {
    guard !isSettling else { return }
    isSettling = true
    defer { isSettling = false }
    repeat {
      while let share = releases.nextShare() { share.giveBack() }
      while let call = releases.nextCall() { call() }
      updateDemand()
    } while !releases.isEmpty
  }

  private func updateDemand() {
    guard hadDemand != (consumers > 0) else { return }
    hadDemand = consumers > 0
    onDemandChanged?(hadDemand)
  }

  /// A sealed memfd with a cursor's pixels; nil if it cannot be made.
  func cursorFile(_ image: CursorImage) -> SharedFD? {
    if let lastCursor, lastCursor.serial == image.serial { return lastCursor.file }
    do throws(Errno) {
      let file = try FrameCursorFile.make(image)
      lastCursor = (image.serial, file)
      return file
    } catch {
      log.warning("cannot share a cursor image: \(error)")
      return nil
    }
  }
}
