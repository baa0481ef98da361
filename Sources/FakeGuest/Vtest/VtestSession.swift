import Glibc
import Linux

/// One client of the vtest protocol: a GL program whose driver is Mesa's virgl.
package final class VtestSession {
  private let socket: OwnedFD
  private let backend: any VtestBackend
  /// The newest protocol version that is spoken here.
  private static let version: UInt32 = 2
  /// Most words of one command.
  private static let longest: UInt32 = 16 << 18

  /// Takes over a connection.
  package init(_ socket: consuming OwnedFD, _ backend: any VtestBackend) {
    self.socket = socket
    self.backend = backend
  }

  /// Serves the client until it leaves.
  package func run() throws {
    while let header = try read(words: 2, mayEnd: true) {
      guard let command = VtestCommand(rawValue: header[1]) else {
        throw GuestError.unsupported("vtest command \(header[1])")
      }
      try serve(command, length: header[0])
    }
  }

  private func serve(_ command: VtestCommand, length: UInt32) throws {
    guard length <= Self.longest else { throw GuestError.unsupported("\(length) words") }
    // Its length counts bytes.
    if command == .createRenderer {
      _ = try read(bytes: Int(length))
      return
    }
    if command == .submit { return try backend.submit(try read(bytes: Int(length) * 4)) }
    let words = try read(words: Int(length), mayEnd: false) ?? []
    switch command {
    case .getCaps: try sendCaps(1)
    case .getCaps2: try sendCaps(2)
    case .pingProtocolVersion: try send([0, command.rawValue])
    case .protocolVersion:
      try send([1, command.rawValue, min(words.first ?? 0, Self.version)])
    case .resourceCreate2:
      guard let resource = VtestResource(words) else { throw Self.short(command) }
      if let fd = try backend.create(resource) { try give(fd) }
    case .resourceUnref: try backend.destroy(words.first ?? 0)
    case .transferGet2, .transferPut2:
      guard let transfer = VtestTransfer(words) else { throw Self.short(command) }
      try backend.transfer(transfer, toHost: command == .transferPut2)
    case .busyWait:
      try backend.wait()
      try send([1, command.rawValue, 0])
    case .resourceCreate, .transferGet, .transferPut, .submit, .createRenderer:
      throw GuestError.unsupported("vtest protocol 0")
    }
  }

  private static func short(_ command: VtestCommand) -> GuestError {
    .unsupported("a short \(command)")
  }

  private func sendCaps(_ id: UInt32) throws {
    let caps = try backend.capset(id)
    try send([UInt32(caps.count) + 1, id])
    try send(bytes: caps)
  }

  private func give(_ fd: CInt) throws {
    let byte: [UInt8] = [0]
    _ = try byte.withUnsafeBytes { try UnixSocket.send(socket.raw, $0, fds: [fd]) }
  }

  private func send(_ words: [UInt32]) throws {
    try send(bytes: words.withUnsafeBytes { Array($0) })
  }

  private func send(bytes: [UInt8]) throws {
    var done = 0
    while done < bytes.count {
      done += try bytes[done...].withUnsafeBytes { try UnixSocket.send(socket.raw, $0) }
    }
  }

  private func read(words: Int, mayEnd: Bool) throws -> [UInt32]? {
    let bytes = try read(bytes: words * 4, mayEnd: mayEnd)
    guard bytes.count == words * 4 else { return nil }
    return bytes.withUnsafeBytes { raw in
      (0..<words).map { raw.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self) }
    }
  }

  /// All of them, or none at the client's end where that is allowed.
  private func read(bytes count: Int, mayEnd: Bool = false) throws -> [UInt8] {
    guard count > 0 else { return [] }
    var done = 0
    var failure: Errno?
    let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
      while done < count {
        let got = Glibc.read(socket.raw, buffer.baseAddress.map { $0 + done }, count - done)
        if got < 0, errno == EINTR { continue }
        if got < 0 { failure = Errno(errno, "read") }
        if got <= 0 { break }
        done += got
      }
      filled = done
    }
    if let failure, failure.code != ECONNRESET { throw failure }
    guard done == count || mayEnd && done == 0 else { throw Errno(EPIPE, "read") }
    return bytes
  }
}
