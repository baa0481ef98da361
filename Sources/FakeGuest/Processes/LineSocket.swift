import Glibc
import Linux

/// A stream socket on which both sides send lines: QMP and qtest.
final class LineSocket {
  private let fd: OwnedFD
  private let name: String
  private var received: [UInt8] = []
  private var start = 0

  /// Connects, and tries again while the program that listens is still starting.
  init(_ path: String, name: String, to child: ChildProcess) throws(GuestError) {
    self.name = name
    let deadline = Clock.now + 20_000_000_000
    var socket: OwnedFD?
    while true {
      do throws(Errno) {
        socket = try UnixSocket.connect(path, kind: .stream)
        break
      } catch {
        if let status = child.status {
          throw .unsupported("\(name): the program ended with status \(status)")
        }
        if Clock.now > deadline { throw .system("\(name) at \(path)", error) }
        usleep(5000)
      }
    }
    guard let socket = socket.take() else { throw .closed(name) }
    fd = socket
  }

  /// Sends one line; the newline is added.
  func send(_ line: String) throws(GuestError) {
    let bytes = Array(line.utf8) + [10]
    var sent = 0
    while sent < bytes.count {
      let from = sent
      sent += try doing(name) { () throws(Errno) in
        try bytes.withUnsafeBufferPointer { p throws(Errno) -> Int in
          try UnixSocket.send(
            fd.raw, UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: p[from...])))
        }
      }
    }
  }

  /// The next line without its end.
  func line(milliseconds: Int = 30_000) throws(GuestError) -> String {
    while true {
      if let end = received[start...].firstIndex(of: 10) {
        let line = String(decoding: received[start..<end], as: UTF8.self)
        start = end + 1
        if start == received.count {
          received = []
          start = 0
        }
        return line.hasSuffix("\r") ? String(line.dropLast()) : line
      }
      guard waitReadable([fd.raw], milliseconds: milliseconds)[0] else { throw .timedOut(name) }
      var chunk = [UInt8](repeating: 0, count: 4096)
      let n = Glibc.read(fd.raw, &chunk, chunk.count)
      guard n > 0 else { throw .closed(name) }
      received += chunk.prefix(n)
    }
  }
}
