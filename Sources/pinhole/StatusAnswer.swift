import Command
import Glibc
import Linux
import Monitoring

/// What a control socket said.
struct StatusAnswer {
  /// As it came.
  let json: JSON
  /// When it came, in nanoseconds of the monotonic clock.
  let time: UInt64
  /// What it says.
  let state: State

  /// No state is longer, in bytes.
  private static let longest = 1 << 20

  /// Asks a socket.
  ///
  /// - Parameters:
  ///   - path: of the socket.
  ///   - patience: milliseconds for the whole answer, once it is connected; a daemon that works
  ///     takes a few.
  /// - Throws: ``Command/Failure`` where nobody listens, where nothing comes in time, or where it is
  ///   another socket.
  init(from path: String, patience: UInt64 = 5000) throws(Failure) {
    let bytes = try Self.read(path, patience)
    let text = String(decoding: bytes.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    time = Clock.now
    guard let json = JSON(parsing: text), let state = State(json) else {
      throw Failure("\(path) is no control socket of pinhole: give what --control has")
    }
    self.json = json
    self.state = state
  }

  private static func read(_ path: String, _ patience: UInt64) throws(Failure) -> [UInt8] {
    let server = "pinhole serve --control \(path)"
    let socket: OwnedFD
    do throws(Errno) { socket = try UnixSocket.connect(path, kind: .stream) } catch {
      throw Failure(
        "nothing answers on \(path): \(error)\(error.adviceToConnect(server: server))")
    }
    let end = Clock.now &+ patience * 1_000_000
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 65536)
    while bytes.count < longest {
      let now = Clock.now
      let left = now < end ? (end - now) / 1_000_000 : 0
      var poll = pollfd(fd: socket.raw, events: Int16(POLLIN), revents: 0)
      let ready = Glibc.poll(&poll, 1, CInt(clamping: left))
      if ready < 0, errno == EINTR { continue }
      guard ready > 0 else {
        throw Failure(
          "nothing answers on \(path) in \(patience) ms: it is no control socket, or pinhole hangs;"
            + " give what --control has, and see whether `\(server)` is stopped")
      }
      let count = recv(socket.raw, &chunk, chunk.count, 0)
      if count < 0, errno == EINTR || errno == EAGAIN { continue }
      if count < 0 {
        throw Failure(
          "nothing answers on \(path): \(Errno(errno, "recv")); see whether `\(server)` still runs")
      }
      guard count > 0 else { break }
      bytes += chunk.prefix(count)
    }
    return bytes
  }
}
