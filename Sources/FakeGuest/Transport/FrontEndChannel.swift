import CLinux
import Glibc
import Linux

/// Bits of the vhost-user protocol features, as masks.
package enum ProtocolFeature {
  /// `VHOST_USER_PROTOCOL_F_MQ`.
  package static let multiqueue: UInt64 = 1 << 0
  /// `VHOST_USER_PROTOCOL_F_REPLY_ACK`.
  package static let replyAck: UInt64 = 1 << 3
  /// `VHOST_USER_PROTOCOL_F_BACKEND_REQ`.
  package static let backendRequests: UInt64 = 1 << 5
  /// `VHOST_USER_PROTOCOL_F_CONFIG`.
  package static let config: UInt64 = 1 << 9
  /// `VHOST_USER_PROTOCOL_F_RESET_DEVICE`.
  package static let resetDevice: UInt64 = 1 << 13
  /// `VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS`.
  package static let memorySlots: UInt64 = 1 << 15
  /// `VHOST_USER_PROTOCOL_F_STATUS`.
  package static let status: UInt64 = 1 << 16
  /// `VHOST_USER_PROTOCOL_F_SHARED_OBJECT`.
  package static let sharedObject: UInt64 = 1 << 18
  /// What QEMU 10 takes of what Pinhole offers.
  package static let all =
    multiqueue | replyAck | backendRequests | config | resetDevice | memorySlots | status
    | sharedObject
}

/// Bytes of a message under construction; all numbers little endian.
package struct WireBytes: Sendable {
  /// What was put in so far.
  package private(set) var bytes: [UInt8] = []
  /// Nothing yet.
  package init() {}
  /// Appends a number.
  package mutating func put<T: FixedWidthInteger>(_ value: T) {
    withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
  }
  /// Appends numbers.
  package init(u32 words: UInt32...) { for word in words { put(word) } }
  /// Appends numbers.
  package init(u64 words: UInt64...) { for word in words { put(word) } }

  /// Reads a little-endian number of a received message, zero past its end.
  package static func read<T: FixedWidthInteger>(
    _ bytes: [UInt8], _ offset: Int, as type: T.Type = T.self
  ) -> T {
    guard offset + MemoryLayout<T>.size <= bytes.count else { return 0 }
    return bytes.withUnsafeBytes {
      T(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: T.self))
    }
  }
}

/// The front-end's end of a vhost-user socket: messages out, replies in, blocking.
package final class FrontEndChannel {
  /// The socket.
  package let socket: SharedFD
  /// Milliseconds until a missing reply is an error.
  package var patience: CInt = 10_000
  /// Sends so many messages and so many bytes of the next one, and then nothing more.
  package var cut: (messages: Int, bytes: Int)?

  /// Takes over a connected stream socket.
  package init(_ socket: consuming OwnedFD) { self.socket = SharedFD(socket) }

  private static let version: UInt32 = 1
  private static let reply: UInt32 = 1 << 2
  private static let needReply: UInt32 = 1 << 3

  /// Sends a message with its header.
  package func send(
    _ request: UInt32, _ payload: [UInt8] = [], fds: [CInt] = [], needReply: Bool = false
  ) throws(GuestError) {
    var message = WireBytes(
      u32: request, Self.version | (needReply ? Self.needReply : 0), UInt32(payload.count)
    ).bytes
    message += payload
    if let cut {
      guard cut.messages > 0 else {
        if cut.bytes > 0 { try sendRaw(Array(message.prefix(cut.bytes)), fds: fds) }
        throw .closed("a message that was cut")
      }
      self.cut = (cut.messages - 1, cut.bytes)
    }
    try sendRaw(message, fds: fds)
  }

  /// Sends bytes as they are, for front-ends that misbehave.
  package func sendRaw(_ bytes: [UInt8], fds: [CInt] = []) throws(GuestError) {
    var sent = 0
    while sent < bytes.count {
      let from = sent
      do throws(Errno) {
        sent += try bytes.withUnsafeBufferPointer { p throws(Errno) -> Int in
          let rest = UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: p[from...]))
          return try UnixSocket.send(socket.raw, rest, fds: from == 0 ? fds : [])
        }
      } catch {
        if error.code == EPIPE || error.code == ECONNRESET { throw .closed("a message") }
        throw .system("vhost-user message", error)
      }
    }
  }

  /// Receives exactly `count` bytes.
  private func receive(_ count: Int, _ what: String, fds: inout [CInt]) throws(GuestError)
    -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: count)
    var done = 0
    while done < count {
      guard waitReadable([socket.raw], milliseconds: Int(patience))[0] else {
        throw .timedOut("reply to \(what)")
      }
      let from = done
      let got: Int
      do throws(Errno) {
        got = try bytes.withUnsafeMutableBufferPointer { p throws(Errno) -> Int in
          let rest = UnsafeMutableRawBufferPointer(UnsafeMutableBufferPointer(rebasing: p[from...]))
          return try UnixSocket.receive(socket.raw, into: rest, fds: &fds).count
        }
      } catch {
        if error.code == ECONNRESET { throw .closed(what) }
        throw .system("reply to \(what)", error)
      }
      guard got > 0 else { throw .closed(what) }
      done += got
    }
    return bytes
  }

  /// Receives the reply to a request; a reply with another number is an error.
  package func reply(to request: FrontEndChannel.Request) throws(GuestError) -> [UInt8] {
    var fds: [CInt] = []
    defer { for fd in fds { close(fd) } }
    let header = try receive(12, "\(request)", fds: &fds)
    let number = WireBytes.read(header, 0, as: UInt32.self)
    let flags = WireBytes.read(header, 4, as: UInt32.self)
    let size = WireBytes.read(header, 8, as: UInt32.self)
    guard number == request.rawValue, flags & 7 == Self.version | Self.reply, size <= 4096 else {
      throw .violation(
        "\(request) was answered with request \(number), flags \(flags), \(size) bytes")
    }
    return try receive(Int(size), "\(request)", fds: &fds)
  }

  /// Sends a request that has a reply, and returns its payload.
  package func ask(
    _ request: FrontEndChannel.Request, _ payload: [UInt8] = [], fds: [CInt] = []
  ) throws(GuestError) -> [UInt8] {
    try send(request.rawValue, payload, fds: fds)
    return try reply(to: request)
  }

  /// Sends a request without a reply of its own.
  ///
  /// - Parameter ack: with REPLY_ACK, wait for the status and demand that it is zero.
  package func tell(
    _ request: FrontEndChannel.Request, _ payload: [UInt8] = [], fds: [CInt] = [], ack: Bool = false
  ) throws(GuestError) {
    try send(request.rawValue, payload, fds: fds, needReply: ack)
    guard ack else { return }
    let status: UInt64 = WireBytes.read(try reply(to: request), 0)
    guard status == 0 else { throw .violation("\(request) was refused with status \(status)") }
  }

  /// Whether the peer has closed its end.
  package var isClosed: Bool {
    var entry = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
    guard Glibc.poll(&entry, 1, 0) > 0 else { return false }
    var byte: UInt8 = 0
    return recv(socket.raw, &byte, 1, CInt(MSG_PEEK) | ph_MSG_DONTWAIT) <= 0
  }
}

/// poll(2): which of the descriptors are readable, or at their end, within a time.
func waitReadable(_ fds: [CInt], milliseconds: Int) -> [Bool] {
  var entries = fds.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
  let deadline = Clock.now + UInt64(max(milliseconds, 0)) * 1_000_000
  while true {
    let now = Clock.now
    let left = now >= deadline ? 0 : CInt(clamping: (deadline - now + 999_999) / 1_000_000)
    let count = Glibc.poll(&entries, nfds_t(entries.count), left)
    if count >= 0 || errno != EINTR { break }
  }
  return entries.map { $0.revents != 0 }
}

extension FrontEndChannel {
  /// Request numbers of the vhost-user socket, QEMU's docs/interop/vhost-user.rst.
  package enum Request: UInt32, Sendable {
    case getFeatures = 1
    case setFeatures = 2
    case setOwner = 3
    case setMemTable = 5
    case setVringNum = 8
    case setVringAddr = 9
    case setVringBase = 10
    case getVringBase = 11
    case setVringKick = 12
    case setVringCall = 13
    case setVringErr = 14
    case getProtocolFeatures = 15
    case setProtocolFeatures = 16
    case getQueueNum = 17
    case setVringEnable = 18
    case setBackendReqFD = 21
    case getConfig = 24
    case setConfig = 25
    case gpuSetSocket = 33
    case resetDevice = 34
    case getMaxMemSlots = 36
    case addMemReg = 37
    case remMemReg = 38
    case setStatus = 39
    case getStatus = 40
    case getSharedObject = 41
  }
}
