import Glibc
import Linux
import RenderWire
import Rendering

/// The far end of a link, which says what it likes.
final class Liar {
  let loop: EventLoop
  let link: RenderLink
  private let far: OwnedFD
  private(set) var end: RenderLink.End?
  private(set) var outcomes: [RenderOutcome] = []

  init(
    deadline: UInt64 = 60_000_000_000,
    transmit: @escaping RenderLink.Transmit = RenderLink.transmit
  ) throws {
    loop = try EventLoop()
    let pair = try UnixSocket.Pair(.seqpacket)
    far = try pair.second.duplicate()
    link = try RenderLink(
      try pair.first.duplicate(), on: loop, deadline: deadline,
      transmit: transmit)
    link.onEnd = { [unowned self] in end = $0 }
  }

  func say(_ bytes: [UInt8], gifts: [CInt] = []) throws {
    _ = try bytes.withUnsafeBytes { try UnixSocket.send(far.raw, $0, fds: gifts) }
    for _ in 0..<3 { try loop.turn(timeout: 0) }
  }

  func greet() throws {
    let greeting = RenderGreeting(isRecent: true, capsets: [])
    try say(RenderAnswer.ready(greeting).packet(id: 0))
    try say(RenderAnswer.done(error: 0).packet(id: 1))
  }

  func ask(_ request: RenderRequest) {
    link.send(request) { [unowned self] in outcomes.append($0) }
  }

  /// The next request that arrived, and how many descriptors came with it.
  func next() throws -> (header: RenderHeader, fds: Int)? {
    var fds: [CInt] = []
    var bytes = [UInt8](repeating: 0, count: RenderWire.largestPacket)
    let count = try bytes.withUnsafeMutableBytes { buffer in
      try UnixSocket.receive(far.raw, into: buffer, fds: &fds, dontWait: true).count
    }
    for fd in fds { close(fd) }
    return bytes.prefix(count).withUnsafeBytes { RenderHeader($0) }.map { ($0, fds.count) }
  }
  /// The descriptor that came with the next request.
  func gift() throws -> SharedFD? {
    var fds: [CInt] = []
    var bytes = [UInt8](repeating: 0, count: RenderWire.largestPacket)
    _ = try bytes.withUnsafeMutableBytes {
      try UnixSocket.receive(far.raw, into: $0, fds: &fds, maxFDs: 1, dontWait: true)
    }
    return fds.first.map { SharedFD(OwnedFD(adopting: $0)) }
  }
}
