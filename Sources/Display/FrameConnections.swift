import FrameWire
import Glibc
import Linux
import Logging
import PinholeProtocol
import VirtioGPU

// Who connects, what they say, and how it ends.
extension FrameServer {
  /// Listens on a path; a socket that nobody serves any more is replaced.
  ///
  /// Its mode is 0600. Where other users may connect it is 0666, and each peer's user is checked.
  ///
  /// - Parameter copiesOnly: consumers of this socket get read-only copies and nothing else.
  /// - Throws: ``FrameListenerError``.
  public func listen(_ path: String, copiesOnly: Bool = false) throws(FrameListenerError) {
    let listener = try FrameListener(
      path, isOpenToAll: !users(copiesOnly).isEmpty, loop: loop, log: log
    ) { [unowned self] socket in
      serve(socket, copiesOnly: copiesOnly)
    }
    listeners.append(listener)
  }

  private func users(_ copiesOnly: Bool) -> Set<UInt32> {
    copiesOnly ? options.allowedUsers.union(options.allowedCopyUsers) : options.allowedUsers
  }

  /// Takes over a connected `SOCK_SEQPACKET` socket.
  ///
  /// - Parameter copiesOnly: the consumer gets read-only copies and nothing else.
  package func serve(_ socket: consuming OwnedFD, copiesOnly: Bool = false) {
    do throws(Errno) {
      let peer = try UnixSocket.peer(of: socket.raw)
      if let refusal = refusal(of: peer, copiesOnly) { return refuse(socket.raw, refusal, peer) }
      let client = FrameClient(socket, peer: peer, server: self)
      client.isCopyOnly = copiesOnly
      client.isUntrusted = copiesOnly
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

  private func refusal(of peer: UnixSocket.Peer, _ copiesOnly: Bool) -> MalformedMessage? {
    let isAllowed = peer.uid == geteuid() || peer.uid == 0
    guard isAllowed || users(copiesOnly).contains(peer.uid) else {
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
      try client.handle(FrameRequest(packet, fds: fds.count), &fds)
    } catch {
      end(client, error)
    }
  }

  /// A consumer introduced itself: shows it what is on screen.
  func greeted(_ client: FrameClient) {
    var hello = pinhole_producer_hello.empty()
    hello.magic = PINHOLE_MAGIC
    hello.version = PINHOLE_VERSION
    hello.features = client.features
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
}
