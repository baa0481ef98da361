import CLinux
import FakeGuest
import Glibc
import Linux
import VhostUser

/// The back-end of a second device behind the same QEMU, one without protocol of its own
/// (`vhost-user-rng-pci`): it asks QEMU for the objects of other devices, and does nothing else.
final class OtherBackEnd {
  /// The path that QEMU connects to.
  let path: String
  private let directory: TemporaryDirectory
  private let state: State
  private var thread: Linux.Thread?

  /// What its thread shares with those who ask.
  private final class State: Sendable {
    let connection = Locked<SharedFD?>(nil)
    let channel = Locked<SharedFD?>(nil)
  }

  /// Starts to listen; QEMU waits for answers while it starts.
  init() throws {
    directory = try TemporaryDirectory()
    path = directory.file("other")
    let listener = SharedFD(try UnixSocket.listen(path, kind: .stream))
    let state = State()
    self.state = state
    thread = try Linux.Thread("other-back-end") { OtherBackEnd.serve(listener, state) }
  }

  deinit {
    // A receive(2) that waits ends.
    state.connection.withLock { if let raw = $0?.raw { _ = shutdown(raw, CInt(SHUT_RDWR)) } }
  }

  private static func serve(_ listener: SharedFD, _ state: State) {
    var ready = pollfd(fd: listener.raw, events: Int16(POLLIN), revents: 0)
    guard poll(&ready, 1, 20_000) == 1, let socket = try? UnixSocket.accept(listener.raw) else {
      return
    }
    let connection = SharedFD(socket)
    state.connection.withLock { $0 = connection }
    while let (message, fds) = receive(connection) {
      guard let request = FrontEndRequest(rawValue: message.request) else { return }
      if request == .setBackendRequestFD { state.channel.withLock { $0 = fds.first } }
      guard let reply = reply(to: request) else { continue }
      send(VhostUserMessage(replyTo: request, reply), to: connection)
    }
  }

  private static func reply(to request: FrontEndRequest) -> [UInt8]? {
    let version1: UInt64 = 1 << 32
    let protocolFeatures: UInt64 = 1 << 30
    switch request {
    case .getFeatures: return WordPayload(version1 | protocolFeatures).bytes
    case .getProtocolFeatures:
      let features: ProtocolFeatures = [.backEndRequest, .sharedObject]
      return WordPayload(features.rawValue).bytes
    case .getVringBase: return [UInt8](repeating: 0, count: 8)
    default: return nil
    }
  }

  private static func send(_ message: VhostUserMessage, to socket: SharedFD) {
    _ = message.encoded.withUnsafeBytes { bytes in
      try? UnixSocket.send(socket.raw, bytes)
    }
  }

  /// Waits for a whole message; nil when the other end is gone.
  private static func receive(_ socket: SharedFD) -> (VhostUserMessage, [SharedFD])? {
    var raw: [CInt] = []
    defer { raw = [] }
    func take(_ count: Int) -> [UInt8]? {
      var bytes = [UInt8](repeating: 0, count: count)
      var have = 0
      while have < count {
        let got = bytes.withUnsafeMutableBytes { buffer in
          try? UnixSocket.receive(
            socket.raw, into: .init(rebasing: buffer[have...]), fds: &raw
          ).count
        }
        guard let got, got > 0 else { return nil }
        have += got
      }
      return bytes
    }
    guard let head = take(VhostUserHeader.size) else { return nil }
    let header = VhostUserHeader(head)
    let payload = take(Int(header.payloadSize))
    let fds = raw.map { SharedFD(OwnedFD(adopting: $0)) }
    guard let payload else { return nil }
    return (VhostUserMessage(request: header.request, flags: header.flags, payload: payload), fds)
  }

  /// `VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP`.
  ///
  /// - Returns: the status in the answer, 0 for success, and the descriptor that came with it;
  ///   nil if QEMU gives no answer.
  func lookUp(_ name: [UInt8]) -> (status: UInt64, fd: SharedFD?)? {
    guard let channel = state.channel.withLock({ $0 }) else { return nil }
    Self.send(
      VhostUserMessage(
        request: BackEndRequest.sharedObjectLookup.rawValue, flags: VhostUserHeader.version,
        payload: name),
      to: channel)
    var ready = pollfd(fd: channel.raw, events: Int16(POLLIN), revents: 0)
    guard poll(&ready, 1, 20_000) == 1, let (answer, fds) = Self.receive(channel),
      answer.request == BackEndRequest.sharedObjectLookup.rawValue,
      answer.flags & VhostUserHeader.reply != 0
    else { return nil }
    return (WireReader(answer.payload).u64(0), fds.first)
  }
}

/// A process's dma-bufs, by descriptor number.
func dmaBufs(of pid: CInt) -> [CInt] {
  var text = [CChar](repeating: 0, count: 64)
  return (0..<512).filter { number in
    let count = readlink("/proc/\(pid)/fd/\(number)", &text, text.count)
    guard count > 0 else { return false }
    return String(decoding: text.prefix(count).map { UInt8(bitPattern: $0) }, as: UTF8.self)
      .hasPrefix("/dmabuf")
  }
}

/// Another process's descriptor, pidfd_getfd(2).
func descriptor(_ number: CInt, of pid: CInt) throws(Errno) -> SharedFD {
  let pidfdOpen = 434
  let pidfdGetfd = 438
  func call(_ number: Int, _ name: StaticString, _ a: CInt, _ b: CInt) throws(Errno) -> OwnedFD {
    let result = ph_raw_call(number, Int(a), Int(b), 0)
    guard result >= 0 else { throw Errno(errno, name) }
    return OwnedFD(adopting: CInt(result))
  }
  let process = SharedFD(try call(pidfdOpen, "pidfd_open", pid, 0))
  return SharedFD(try call(pidfdGetfd, "pidfd_getfd", process.raw, number))
}
