import FrameProtocol
import Glibc
import Linux
import PinholeProtocol

/// One end of a connection that says what it likes.
final class ConformanceSocket {
  /// A packet and what came with it.
  struct Packet {
    let bytes: [UInt8]
    let descriptors: [SharedFD]

    var type: UInt32 { word(0) }
    var name: String { WireName.message(type) }

    func word(_ offset: Int) -> UInt32 {
      guard offset + 4 <= bytes.count else { return 0 }
      return bytes.withUnsafeBytes { $0.loadUnaligned(fromByteOffset: offset, as: UInt32.self) }
    }

    /// A consumer's message, judged by the protocol.
    ///
    /// - Parameter features: those that hold, nil before the first message.
    func message(features: UInt64?) throws -> ConsumerMessage {
      do throws(MalformedMessage) {
        return try bytes.span.bytes.withUnsafeBytes { packet throws(MalformedMessage) in
          try ConsumerMessage(packet, descriptors: descriptors.count, features: features)
        }
      } catch {
        throw ConformanceResult.wrong("\(name) is wrong: \(error.text)")
      }
    }

    /// The struct that the type promises.
    func body<Body: BitwiseCopyable>(_: Body.Type) throws -> Body {
      guard bytes.count == MemoryLayout<Body>.size, Int(word(4)) == bytes.count else {
        throw ConformanceResult.wrong(
          "\(name) has \(bytes.count) bytes and header.size \(word(4)), not "
            + "\(MemoryLayout<Body>.size)")
      }
      return bytes.withUnsafeBytes { $0.loadUnaligned(as: Body.self) }
    }
  }

  private let fd: OwnedFD

  init(_ fd: consuming OwnedFD) { self.fd = fd }

  /// Connects to a producer.
  convenience init(path: String) throws {
    do throws(Errno) { self.init(try UnixSocket.connect(path, kind: .seqpacket)) } catch {
      throw ConformanceResult.wrong("cannot connect to \(path): \(error.message)")
    }
  }

  func send<Body: BitwiseCopyable>(_ body: Body, fds: [CInt] = []) throws {
    try send(withUnsafeBytes(of: body) { [UInt8]($0) }, fds: fds)
  }

  /// Sends bytes as one packet.
  func send(_ bytes: [UInt8], fds: [CInt] = []) throws {
    do throws(Errno) {
      _ = try bytes.span.bytes.withUnsafeBytes { bytes throws(Errno) in
        try UnixSocket.send(fd.raw, bytes, fds: fds)
      }
    } catch {
      throw ConformanceResult.wrong("it does not take messages any more: \(error.message)")
    }
  }

  /// The next packet; nil at the end of the connection.
  ///
  /// - Throws: when nothing comes in time.
  func receive(milliseconds: CInt = 5000, waitingFor what: String) throws -> Packet? {
    var poll = pollfd(fd: fd.raw, events: Int16(POLLIN), revents: 0)
    guard try retrying("poll", { Glibc.poll(&poll, 1, milliseconds) }) > 0 else {
      throw ConformanceResult.wrong("\(what) did not come in \(milliseconds) ms")
    }
    var bytes = [UInt8](repeating: 0, count: Int(PINHOLE_MAX_MESSAGE) + 1)
    var fds: [CInt] = []
    for _ in 0..<2 {
      do {
        let got = try bytes.withUnsafeMutableBytes {
          try UnixSocket.receive(fd.raw, into: $0, fds: &fds, maxFDs: 16)
        }
        let owned = fds.map { SharedFD(OwnedFD(adopting: $0)) }
        return got.count == 0 ? nil : Packet(bytes: Array(bytes[..<got.count]), descriptors: owned)
      } catch let error as Errno where error.code == ECONNRESET {
        continue  // its last words may still be there
      }
    }
    return nil
  }

  /// Ends the connection for the other side.
  func shutDown() { _ = Glibc.shutdown(fd.raw, CInt(SHUT_RDWR)) }

  /// Whether anything can be read within a time.
  func hasNews(milliseconds: CInt) throws -> Bool {
    var poll = pollfd(fd: fd.raw, events: Int16(POLLIN), revents: 0)
    return try retrying("poll") { Glibc.poll(&poll, 1, milliseconds) } > 0
  }
}
