import FrameProtocol
import Glibc
import Linux

/// What a consumer has to say, in order; a producer that does not read stops nobody.
struct Outbox {
  private struct Packet {
    let bytes: [UInt8]
    let fds: [SharedFD]
  }

  /// Whoever owes so much has met a producer that does not read at all.
  private static let limit = 4096
  private var waiting: [Packet] = []

  /// Nothing waits for room in the socket.
  var isEmpty: Bool { waiting.isEmpty }

  /// Sends a message, or keeps it with duplicates of its descriptors until there is room.
  mutating func send(
    _ message: some WireStruct, fds: [CInt], to socket: CInt
  ) throws(FramesError) {
    do throws(Errno) {
      if waiting.isEmpty {
        let bytes = withUnsafeBytes(of: message) { [UInt8]($0) }
        if try Self.send(bytes.span.bytes, fds, to: socket) { return }
      }
      var copies: [SharedFD] = []
      for fd in fds { copies.append(SharedFD(try OwnedFD.duplicate(of: fd))) }
      waiting.append(Packet(bytes: withUnsafeBytes(of: message) { [UInt8]($0) }, fds: copies))
    } catch { throw .system(error) }
    if waiting.count > Self.limit { throw .unread }
  }

  /// Sends what waits, as far as there is room.
  mutating func flush(to socket: CInt) throws(FramesError) {
    var sent = 0
    defer { waiting.removeFirst(sent) }
    for packet in waiting {
      do throws(Errno) {
        let fds = packet.fds.map(\.raw)
        guard try Self.send(packet.bytes.span.bytes, fds, to: socket) else { return }
      } catch { throw .system(error) }
      sent += 1
    }
  }

  /// False when the socket is full.
  private static func send(
    _ bytes: RawSpan, _ fds: [CInt], to socket: CInt
  ) throws(Errno) -> Bool {
    do throws(Errno) {
      try bytes.withUnsafeBytes { bytes throws(Errno) in
        _ = try UnixSocket.send(socket, bytes, fds: fds, dontWait: true)
      }
      return true
    } catch {
      switch error.code {
      case EAGAIN, ENOBUFS, ETOOMANYREFS: return false
      // The producer may have said why before it closed: the next read tells.
      case EPIPE, ECONNRESET: return true
      default: throw error
      }
    }
  }
}
