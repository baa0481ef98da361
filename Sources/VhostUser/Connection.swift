import Linux

/// Descriptors that came with a message; those that nobody takes are closed.
final class ReceivedFDs {
  private let sender: Sender
  private var raw: [CInt] = []

  init(from sender: Sender) { self.sender = sender }

  var count: Int { raw.count }

  func append(_ more: [CInt]) { raw.append(contentsOf: more) }

  /// The first of those that are left.
  func take() -> OwnedFD? { raw.isEmpty ? nil : OwnedFD(adopting: raw.removeFirst(), from: sender) }

  deinit { while take() != nil {} }
}

/// Cuts a stream into messages and sends replies; never blocks.
final class Connection {
  private let socket: OwnedFD
  /// Header and payload of the message that is arriving.
  private let buffer: UnsafeMutableRawBufferPointer
  private var have = 0
  private var expected = VhostUserHeader.size
  private var header: VhostUserHeader?
  private var fds: ReceivedFDs
  private var outgoing: [UInt8] = []
  /// Descriptors that go with the byte of `outgoing` at their place.
  private var passengers: [(place: Int, fd: SharedFD)] = []
  private static let maxOutgoing = 64 * 1024

  init(_ socket: consuming OwnedFD) {
    fds = ReceivedFDs(from: socket.sender)
    self.socket = socket
    buffer = .allocate(
      byteCount: VhostUserHeader.size + VhostUserMessage.maxPayload, alignment: 8)
  }

  deinit {
    // The socket may be closed later, and by others.
    UnixSocket.shutDown(socket.raw)
    buffer.deallocate()
  }

  /// A close of something that came over it waits.
  var isStuck: Bool { Closers.isStuck(socket.sender) }

  var raw: CInt { socket.raw }

  /// Replies wait for room in the socket.
  var hasOutgoing: Bool { !outgoing.isEmpty }

  /// The next whole message, nil when more bytes have to come.
  func receive() throws(VhostUserError) -> (VhostUserMessage, ReceivedFDs)? {
    while true {
      while have < expected {
        guard try fill() else { return nil }
      }
      if let header { return take(header) }
      let parsed = VhostUserHeader(Array(buffer[..<VhostUserHeader.size]))
      guard parsed.flags & VhostUserHeader.versionMask == VhostUserHeader.version,
        parsed.flags & VhostUserHeader.reply == 0
      else { throw .badFlags(parsed.flags) }
      guard parsed.payloadSize <= UInt32(VhostUserMessage.maxPayload) else {
        throw .tooLarge(request: parsed.request, size: parsed.payloadSize)
      }
      header = parsed
      expected = VhostUserHeader.size + Int(parsed.payloadSize)
    }
  }

  private func take(_ parsed: VhostUserHeader) -> (VhostUserMessage, ReceivedFDs) {
    let message = VhostUserMessage(
      request: parsed.request, flags: parsed.flags,
      payload: Array(buffer[VhostUserHeader.size..<expected]))
    defer {
      have = 0
      expected = VhostUserHeader.size
      header = nil
      fds = ReceivedFDs(from: socket.sender)
    }
    return (message, fds)
  }

  /// - Returns: false when the socket is empty.
  private func fill() throws(VhostUserError) -> Bool {
    var descriptors: [CInt] = []
    let received: UnixSocket.Received
    do throws(Errno) {
      received = try UnixSocket.receive(
        socket.raw, into: UnsafeMutableRawBufferPointer(rebasing: buffer[have..<expected]),
        fds: &descriptors, maxFDs: VhostUserMessage.maxFDs + 1, dontWait: true,
        from: socket.sender)
    } catch {
      if error.code == wouldBlock { return false }
      throw error.code == connectionReset ? .truncated : .socket(error)
    }
    fds.append(descriptors)
    // Descriptors travel with the first byte of their message.
    guard !received.truncated, fds.count <= VhostUserMessage.maxFDs,
      descriptors.isEmpty || have == 0
    else { throw .strayDescriptors }
    guard received.count > 0 else { throw have == 0 ? .frontEndClosed : .truncated }
    have += received.count
    return true
  }

  /// Sends a reply, or keeps what the socket has no room for.
  func send(_ message: VhostUserMessage, fd: SharedFD? = nil) throws(VhostUserError) {
    if let fd { passengers.append((outgoing.count, fd)) }
    outgoing.append(contentsOf: message.encoded)
    guard outgoing.count <= Self.maxOutgoing else { throw .repliesNotRead }
    try flush()
  }

  /// Sends what was kept.
  func flush() throws(VhostUserError) {
    while !outgoing.isEmpty {
      let fds = passengers.first.map { $0.place == 0 ? [$0.fd.raw] : [] } ?? []
      let end = passengers.first { $0.place > 0 }?.place ?? outgoing.count
      let result = outgoing[..<end].withUnsafeBytes { bytes in
        Result { () throws(Errno) in
          try UnixSocket.send(socket.raw, bytes, fds: fds, dontWait: true)
        }
      }
      switch result {
      case .success(let sent):
        outgoing.removeFirst(sent)
        passengers.removeFirst(fds.count)
        for i in passengers.indices { passengers[i].place -= sent }
      case .failure(let error):
        if error.code == wouldBlock { return }
        throw error.code == brokenPipe ? .frontEndClosed : .socket(error)
      }
    }
  }
}
