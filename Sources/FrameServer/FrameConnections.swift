import FrameProtocol
import Glibc
import Linux
import Logging
import PinholeProtocol
import Scene

// Who connects, what they say, and how it ends.
extension FrameServer {
  /// Listens on a path; a socket that nobody serves any more is replaced.
  ///
  /// - Parameters:
  ///   - path: of the socket.
  ///   - access: who may connect, which the kernel checks.
  ///   - copiesOnly: consumers of this socket get read-only copies and nothing else, and may pass no
  ///     descriptors.
  /// - Throws: ``ListenError``.
  public func listen(
    _ path: String, access: UnixSocket.Access = .owner, copiesOnly: Bool = false
  ) throws(ListenError) {
    try listen(
      .path(path, .seqpacket, access: access, takesDescriptors: !copiesOnly),
      copiesOnly: copiesOnly)
  }

  /// Takes over a socket that listens already, as systemd hands over.
  public func listen(on socket: SharedFD) throws(ListenError) {
    try listen(.adopted(socket), copiesOnly: false)
  }

  private func listen(_ place: Listener.Place, copiesOnly: Bool) throws(ListenError) {
    let listener = try Listener(place, isCrowd: true, on: loop)
    listener.failed = { [log] in log.warning("cannot accept a frame consumer: \($0)") }
    listener.connected = { [unowned self] in serve($0, copiesOnly: copiesOnly) }
    listeners.append(listener)
  }

  /// Takes over a connected `SOCK_SEQPACKET` socket.
  ///
  /// - Parameter copiesOnly: the consumer gets read-only copies and nothing else.
  package func serve(_ socket: consuming OwnedFD, copiesOnly: Bool = false) {
    do throws(Errno) {
      let peer = try UnixSocket.peer(of: socket.raw)
      if let refusal { return refuse(socket.raw, refusal, peer) }
      UnixSocket.setSendBuffer(socket.raw, 32 << 10)
      let client = FrameClient(socket, peer: peer, recipient(ofProcess: peer.pid), server: self)
      client.isCopyOnly = copiesOnly
      client.isUntrusted = copiesOnly
      client.token = try loop.watch(client.socket.raw, for: .readable) {
        [unowned self, unowned client] events in
        ready(client, events)
      }
      client.helloTimer = LoopTimer(on: loop) { [unowned self, unowned client] in
        end(
          client,
          MalformedMessage(
            code: PINHOLE_ERROR_TIMEOUT, type: PINHOLE_CONSUMER_HELLO.rawValue,
            text: "CONSUMER_HELLO did not come in time"))
      }
      client.helloTimer?.arm(after: options.helloDeadline)
      clients.append(client)
    } catch {
      log.warning("cannot serve a frame consumer: \(error)")
    }
  }

  private var refusal: MalformedMessage? {
    guard clients.count >= options.maxConsumers else { return nil }
    return MalformedMessage(
      code: PINHOLE_ERROR_LIMIT, type: 0, text: "there are \(clients.count) consumers already")
  }

  private func refuse(_ socket: CInt, _ refusal: MalformedMessage, _ peer: UnixSocket.Peer) {
    counters.refused &+= 1
    log.warning("frame consumer (process \(peer.pid)) refused: \(refusal.text)")
    do throws(Errno) {
      try FrameClient.send(Refusal(refusal).wire, to: socket)
    } catch {
      log.debug("frame consumer (process \(peer.pid)) did not hear why: \(error)")
    }
    UnixSocket.shutDown(socket)
  }

  private func ready(_ client: FrameClient, _ events: EventLoop.Events) {
    if events.contains(.writable), client.isBlocked, let token = client.token {
      client.isBlocked = false
      watch(client, token, .readable)
      client.wantsMore = true
    }
    // One packet a turn: the loop comes back for more, and the others get their turn too.
    if !client.isGone { receive(client) }
  }

  /// Takes one packet.
  private func receive(_ client: FrameClient) {
    fds.removeAll(keepingCapacity: true)
    defer { for fd in fds { Closers.close(fd, from: client.socket.sender) } }
    if Closers.isStuck(client.socket.sender) {
      return end(
        client,
        MalformedMessage(
          code: PINHOLE_ERROR_TOO_SLOW, type: 0, text: "a descriptor that came does not close"))
    }
    do throws(Errno) {
      let received = try UnixSocket.receive(
        client.socket.raw, into: scratch, fds: &fds, maxFDs: Int(PINHOLE_MAX_FDS), dontWait: true,
        from: client.socket.sender)
      guard received.count > 0 else { return end(client, nil) }
      handle(client, received)
    } catch {
      if error.code != EAGAIN { end(client, nil) }
    }
  }

  private func handle(_ client: FrameClient, _ received: UnixSocket.Received) {
    do throws(MalformedMessage) {
      if fds.contains(where: Descriptors.isReserve) {
        throw MalformedMessage(
          code: PINHOLE_ERROR_LIMIT, type: 0, text: "there are no descriptors to spare")
      }
      if received.truncated {
        throw MalformedMessage(type: 0, text: "the packet or its descriptors are too many")
      }
      let packet = UnsafeRawBufferPointer(rebasing: scratch[..<received.count])
      let message = try ConsumerMessage(
        packet, descriptors: fds.count, features: client.isGreeted ? client.features : nil)
      try client.handle(message, &fds)
    } catch {
      end(client, error)
    }
  }

  /// A consumer introduced itself: shows it what is on screen.
  func greeted(_ client: FrameClient) {
    // Before anything is sent: who is gone by then is taken off again.
    consumers += 1
    let hello = Producer(
      features: client.features, maxInFlight: UInt32(clamping: client.maxInFlight),
      holdDeadline: UInt32(clamping: options.holdDeadline / 1000),
      closeDeadline: UInt32(clamping: options.closeDeadline / 1000), name: "pinhole")
    guard client.send(hello.wire) else { return end(client, nil) }
    counters.consumers &+= 1
    log.info("\(client.label) connected")
    client.noteAll()
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
        try FrameClient.send(Refusal(fault).wire, to: client.socket.raw)
      } catch {
        log.debug("\(client.label) did not hear why: \(error)")
      }
    } else {
      log.info("\(client.label) disconnected")
    }
    if let token = client.token { loop.unwatch(token) }
    // The socket's last descriptor may be closed later.
    UnixSocket.shutDown(client.socket.raw)
    client.helloTimer = nil
    clients.removeAll { $0 === client }
    client.releaseAll()
    if client.isGreeted { consumers -= 1 }
  }

  /// Sends what is left in a while.
  func tryAgain() { if againTimer?.isArmed == false { againTimer?.arm(after: 10_000_000) } }

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
}
