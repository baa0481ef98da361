import CLinux
import Glibc
import Linux
import RenderWire

/// What became of a request.
package enum RenderOutcome: Equatable, Sendable {
  /// It was run.
  case done
  /// The renderer or its library would not; an error number as in errno(3).
  case refused(UInt32)
  /// The renderer is gone, and everything in it.
  case lost
}

/// A twin that a renderer made of a picture, as it says: nothing of it was looked at.
package struct RenderExport {
  /// How the picture lies in it.
  package let twin: RenderTwin
  /// Whatever was sent as its dma-buf.
  package let fd: SharedFD
}

/// The daemon's end of one renderer's socket.
///
/// It never waits: what the socket does not take is kept, and every request is answered later, by
/// its closure, in the event loop's thread. The renderer runs code that a guest may have taken
/// over: whatever it says that it could not say in its right mind ends the link.
package final class RenderLink {
  /// Why a link ended.
  package enum End: Equatable, Sendable {
    /// The renderer ended or closed its socket.
    case closed
    /// One request, or its start, took so many nanoseconds, which is as long as it may.
    case late(UInt64)
    /// It broke the protocol: how.
    case broken(String)
    /// It could not start: why.
    case unable(String)
    /// It was asked to.
    case left
  }

  /// The renderer can work; called at most once.
  package var onReady: ((RenderGreeting) -> Void)?
  /// The link is over, and all requests are answered; called once, not after ``leave()``.
  package var onEnd: ((End) -> Void)?

  private struct Pending {
    let id: UInt32
    let usesRing: Bool
    /// Takes the twin of a picture, for ``RenderRequest/exportPicture(_:_:)`` alone.
    let export: ((RenderExport) -> Void)?
    let done: (RenderOutcome) -> Void
  }

  private struct Fence {
    /// ``RequestClock``'s number of it.
    let order: UInt64
    let done: (RenderOutcome) -> Void
  }

  /// A request that the socket has not taken.
  private struct Outgoing {
    let header: RenderHeader
    var payload: [UInt8]
    /// Its payload belongs into the ring.
    let goesThroughRing: Bool
    let gift: SharedFD?
  }

  private let socket: SharedFD
  /// Whose the descriptors are that come: their close may wait.
  private let sender = Sender.connection()
  private let loop: EventLoop
  private let ring: Mapping
  private var space = RingSpace(size: RenderWire.ringSize)
  private var token: EventLoop.Token?
  private var watchdog: LoopTimer?
  private let deadline: UInt64
  private var lastID: UInt32 = 0
  private var pending = Queue<Pending>()
  private var fences: [UInt32: Fence] = [:]
  private var clock = RequestClock()
  private var outgoing = Queue<Outgoing>()
  /// Bytes of payload that the socket or the ring has not taken.
  package private(set) var bytesWaiting = 0
  private var isWritable = true
  private let bornAt = Clock.now
  /// When it greeted; 0 before.
  private var readyAt: UInt64 = 0
  private var isReady = false
  private var isOver = false
  private let buffer: UnsafeMutableRawBufferPointer

  /// Most packets that are read before the loop's other descriptors get their turn.
  private static let batch = 256
  /// Nanoseconds for a renderer to start, in which it loads Mesa and draws for the first time.
  private let startDeadline: UInt64
  /// Sends a packet on a socket, with descriptors, without waiting.
  package typealias Transmit = (CInt, [UInt8], [CInt]) throws(Errno) -> Void
  private let transmit: Transmit
  /// Tries again what the kernel had no room for.
  private var retry: LoopTimer?
  /// Nanoseconds before that.
  private static let retryInterval: UInt64 = 5_000_000

  /// Begins to talk to a renderer that may still be starting.
  ///
  /// - Parameters:
  ///   - socket: the connected SOCK_SEQPACKET socket.
  ///   - deadline: nanoseconds that a request may take once all before it are answered.
  ///   - transmit: sends a packet and descriptors.
  package init(
    _ socket: consuming OwnedFD, on loop: EventLoop, deadline: UInt64,
    transmit: @escaping Transmit = RenderLink.transmit
  ) throws(Errno) {
    let file = try MemFD.create(
      "pinhole-render-ring", size: RenderWire.ringSize, seals: [.shrink, .grow])
    ring = try Mapping(fd: file.raw, offset: 0, count: RenderWire.ringSize, writable: true)
    // The renderer can only read it.
    try MemFD.add([.futureWrite, .seal], to: file.raw)
    self.socket = SharedFD(socket)
    self.loop = loop
    self.deadline = deadline
    self.transmit = transmit
    startDeadline = max(60_000_000_000, deadline.multipliedReportingOverflow(by: 6).partialValue)
    buffer = .allocate(
      byteCount: RenderWire.mostCapsets * (RenderWire.largestCapset + 64) + 64, alignment: 8)
    watchdog = LoopTimer(on: loop) { [unowned self] in look() }
    retry = LoopTimer(on: loop) { [unowned self] in flush() }
    token = try loop.watch(self.socket.raw, for: .readable) { [unowned self] in served($0) }
    watchdog?.arm(after: startDeadline)
    send(
      .setUp(version: RenderWire.version, ringSize: UInt64(RenderWire.ringSize)),
      gift: SharedFD(file)
    ) { [unowned self] in
      if case .refused(let error) = $0 { end(.broken("it refuses the ring (error \(error))")) }
    }
  }

  deinit {
    if let token { loop.unwatch(token) }
    buffer.deallocate()
  }

  /// Requests that are not answered yet.
  package var unanswered: Int { pending.count + fences.count }

  /// Asks for something.
  ///
  /// - Parameters:
  ///   - request: not ``RenderRequest/submit(context:_:)``: see ``submit(context:count:filling:_:)``;
  ///     nor ``RenderRequest/exportPicture(_:_:)``: see ``export(_:_:_:)``.
  ///   - gift: the descriptor that travels along.
  ///   - done: called once, never from inside of this call unless the link is over.
  package func send(
    _ request: RenderRequest, gift: SharedFD? = nil, _ done: @escaping (RenderOutcome) -> Void
  ) {
    post(request.opcode, request.payload, gift, done)
  }

  /// Asks for a twin of the picture in a file.
  ///
  /// - Parameter done: called once, with nil where there is none.
  package func export(
    _ file: UInt32, _ picture: RenderPicture, _ done: @escaping (RenderExport?) -> Void
  ) {
    let request = RenderRequest.exportPicture(file, picture)
    var made: RenderExport?
    post(request.opcode, request.payload, nil, export: { made = $0 }, { _ in done(made) })
  }

  /// Submits commands, which `filling` copies to where they are sent from.
  ///
  /// - Parameters:
  ///   - count: bytes, a multiple of 4, at most ``RenderWire/largestPayload`` less 4.
  ///   - filling: called before this returns with `count` bytes to be filled.
  package func submit(
    context: UInt32, count: Int, filling: (UnsafeMutableRawBufferPointer) -> Void,
    _ done: @escaping (RenderOutcome) -> Void
  ) {
    guard count >= 0, count <= RenderWire.largestPayload - 4 else { return done(.refused(7)) }
    let payload = [UInt8](unsafeUninitializedCapacity: count + 4) { raw, filled in
      let bytes = UnsafeMutableRawBufferPointer(raw)
      bytes.storeBytes(of: context, as: UInt32.self)
      filling(UnsafeMutableRawBufferPointer(rebasing: bytes[4..<(count + 4)]))
      filled = count + 4
    }
    post(.submit, payload, nil, done)
  }

  private func post(
    _ opcode: RenderOpcode, _ payload: [UInt8], _ gift: SharedFD?,
    export: ((RenderExport) -> Void)? = nil, _ done: @escaping (RenderOutcome) -> Void
  ) {
    guard !isOver else { return done(.lost) }
    guard payload.count <= RenderWire.largestPayload else { return done(.refused(7)) }
    lastID &+= 1
    if unanswered == 0, isReady { watchdog?.arm(after: deadline) }
    let order = clock.asked(isFence: opcode == .fence, at: Clock.now)
    let goesThroughRing = payload.count > RenderWire.largestPacket - RenderHeader.size
    if opcode == .fence {
      fences[lastID] = Fence(order: order, done: done)
    } else {
      pending.append(Pending(id: lastID, usesRing: goesThroughRing, export: export, done: done))
    }
    let header = RenderHeader(
      operation: opcode.rawValue, id: lastID, length: UInt32(payload.count))
    outgoing.append(
      Outgoing(header: header, payload: payload, goesThroughRing: goesThroughRing, gift: gift))
    bytesWaiting += payload.count
    if outgoing.count == 1 { flush() }
  }

  /// Sends what the ring and the socket take.
  private func flush() {
    while let next = outgoing.first {
      var header = next.header
      var payload = next.payload
      if next.goesThroughRing {
        guard let start = space.take(payload.count) else { return }
        payload.withUnsafeBytes { bytes in
          UnsafeMutableRawBufferPointer(start: ring.base + start, count: bytes.count)
            .copyMemory(from: bytes)
        }
        payload = RingPlace(offset: UInt64(start), count: UInt64(payload.count)).bytes
        header.flags = RenderHeader.isInRing
        header.length = UInt32(payload.count)
      }
      do throws(Errno) {
        try transmit(socket.raw, header.packet(payload), next.gift.map { [$0.raw] } ?? [])
      } catch {
        // Its place in the ring would be the last one: it takes the same again later.
        if next.goesThroughRing { space.takeBack() }
        return wait(after: error, for: next.header.id)
      }
      bytesWaiting -= next.payload.count
      _ = outgoing.popFirst()
    }
    if !isWritable { watch(writable: false) }
  }

  /// A packet could not be sent.
  private func wait(after error: Errno, for id: UInt32) {
    switch error.code {
    case EAGAIN, EINTR: watch(writable: true)
    case ETOOMANYREFS, ENOMEM, ENOBUFS:
      // The socket is writable and the kernel is short of something: descriptors of this user that
      // are under way, or memory. A renderer that cannot hear is not late.
      watch(writable: false)
      if pending.first?.id == id { clock.postpone(to: Clock.now) }
      retry?.arm(after: Self.retryInterval)
    // What it said before it closed its end is still to be read: that ends the link.
    default: watch(writable: false)
    }
  }

  /// Sends by sendmsg(2).
  package static func transmit(_ socket: CInt, _ packet: [UInt8], _ fds: [CInt]) throws(Errno) {
    var failure: Errno?
    packet.withUnsafeBytes { bytes in
      do throws(Errno) { _ = try UnixSocket.send(socket, bytes, fds: fds, dontWait: true) } catch {
        failure = error
      }
    }
    if let failure { throw failure }
  }

  private func watch(writable: Bool) {
    isWritable = !writable
    guard let token else { return }
    try? loop.change(token, to: writable ? [.readable, .writable] : .readable)
  }

  /// Reads what there is now.
  package func drain() {
    while !isOver { guard receive() else { return } }
  }

  private func served(_ events: EventLoop.Events) {
    if events.contains(.writable) { flush() }
    for turn in 0..<Self.batch where !isOver {
      // Not asked in vain: whoever says more than was asked is read at the next turn.
      if turn > 0, isReady, unanswered == 0 { break }
      guard receive() else { break }
    }
    if !isOver, !outgoing.isEmpty { flush() }
  }

  /// False when there is nothing more to read.
  private func receive() -> Bool {
    var fds: [CInt] = []
    let got: UnixSocket.Received
    do throws(Errno) {
      got = try UnixSocket.receive(
        socket.raw, into: buffer, fds: &fds, maxFDs: 1, dontWait: true, from: sender)
    } catch {
      // It left without reading all: told once, before what it said last (unix(7)).
      if error.code == ECONNRESET { return true }
      if error.code != EAGAIN, error.code != EINTR { end(.closed) }
      return false
    }
    let gift = fds.first.map { SharedFD(OwnedFD(adopting: $0, from: sender)) }
    guard got.count > 0 else {
      end(.closed)
      return false
    }
    let packet = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffer)[0..<got.count])
    guard !got.truncated, let (id, answer) = RenderAnswer.decode(packet),
      answer.descriptors == (gift == nil ? 0 : 1)
    else {
      end(.broken("it sends what is no answer"))
      return false
    }
    take(id, answer, gift)
    return true
  }

  private func take(_ id: UInt32, _ answer: RenderAnswer, _ gift: SharedFD?) {
    switch answer {
    case .ready(let greeting):
      guard !isReady, greeting.version == RenderWire.version else {
        return end(.broken("it greets twice, or in version \(greeting.version)"))
      }
      isReady = true
      readyAt = Clock.now
      watchdog?.arm(after: deadline)
      onReady?(greeting)
    case .unable(let reason):
      guard !isReady else { return end(.broken("it cannot start after it has")) }
      end(.unable(printable(reason)))
    case .done(let error):
      guard isReady else { return end(.broken("it answers before it greets")) }
      let outcome: RenderOutcome = error == 0 ? .done : .refused(error)
      if outcome == .done, let first = pending.first, first.id == id, first.export != nil {
        return end(.broken("it has made what it does not send"))
      }
      if let fence = fences.removeValue(forKey: id) {
        clock.answered(fence: fence.order, at: Clock.now)
        fence.done(outcome)
      } else if let first = pending.first, first.id == id {
        answered(first, outcome)
      } else {
        end(.broken("it answers what was not asked"))
      }
    case .exported(let twin):
      guard isReady, let gift, let first = pending.first, first.id == id,
        let export = first.export
      else { return end(.broken("it exports what was not asked for")) }
      guard !Closers.isStuck(sender) else {
        return end(.broken("it sends descriptors that do not close"))
      }
      export(RenderExport(twin: twin, fd: gift))
      answered(first, .done)
    }
  }

  /// The oldest request is answered, other than a fence.
  private func answered(_ first: Pending, _ outcome: RenderOutcome) {
    _ = pending.popFirst()
    if first.usesRing { space.giveBack() }
    clock.answeredOperation(at: Clock.now)
    first.done(outcome)
  }

  private func look() {
    guard !isOver, let since = isReady ? clock.since : bornAt else { return }
    let patience = isReady ? deadline : startDeadline
    let now = Clock.now
    let passed = now - min(now, max(since, readyAt))
    guard passed < patience else { return end(.late(patience)) }
    watchdog?.arm(after: patience - passed)
  }

  /// Text of a renderer's for the log.
  private func printable(_ text: [UInt8]) -> String {
    String(
      decoding: text.map { (0x20..<0x7f).contains($0) ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
  }

  /// Ends the link from this side: what waits is answered as lost.
  package func leave() { end(.left) }

  private func end(_ reason: End) {
    guard !isOver else { return }
    isOver = true
    watchdog?.disarm()
    retry?.disarm()
    if let token { loop.unwatch(token) }
    token = nil
    _ = shutdown(socket.raw, CInt(SHUT_RDWR))
    while outgoing.popFirst() != nil {}
    bytesWaiting = 0
    while let next = pending.popFirst() { next.done(.lost) }
    let waiting = fences.keys.sorted()
    for id in waiting { fences.removeValue(forKey: id)?.done(.lost) }
    if reason != .left { onEnd?(reason) }
  }
}
