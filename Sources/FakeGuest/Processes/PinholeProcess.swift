import Glibc
import Linux

/// `pinhole serve` as a process of its own, in a directory of its own.
package final class PinholeProcess {
  /// The process.
  package let child: ChildProcess
  /// Where front-ends connect.
  package let socket: String
  /// Where consumers connect.
  package let framesSocket: String
  private let directory: TemporaryDirectory

  /// Starts it and waits until it listens. `PINHOLE_SANDBOX` in the environment is its `--sandbox`:
  /// a sanitizer makes calls that the filter forbids.
  ///
  /// - Parameters:
  ///   - options: what follows the two socket options.
  ///   - program: the path of `pinhole`; ``Puncher/defaultProgram`` if nil.
  package init(_ options: [String] = [], program: String? = nil) throws(GuestError) {
    directory = try TemporaryDirectory()
    socket = directory.file("vhost-user")
    framesSocket = directory.file("frames")
    let log = directory.file("log")
    let out = try doing(log) { () throws(Errno) in
      try OwnedFD.open(log, O_WRONLY | O_CREAT | O_APPEND)
    }
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    child = try ChildProcess.start(
      [
        program ?? Puncher.defaultProgram, "serve", "--socket-path", socket, "--frames-socket",
        framesSocket,
      ] + sandbox + options, fds: [(out.raw, 1), (out.raw, 2)])
    let deadline = Clock.now + 240_000_000_000
    while !Self.isListening(on: [socket, framesSocket]) {
      if let status = child.status {
        throw .unsupported("pinhole ended with status \(status): \(self.log)")
      }
      guard Clock.now < deadline else { throw .timedOut("pinhole to listen: \(self.log)") }
      usleep(1000)
    }
  }

  /// A bound path refuses connections until its socket listens, which only the kernel's table of
  /// sockets tells without connecting.
  package static func isListening(on paths: [String]) -> Bool {
    guard let table = WholeFile.text("/proc/net/unix") else { return false }
    let listening = table.split(separator: "\n").filter {
      let columns = $0.split(separator: " ")
      return columns.count > 3 && columns[3] == "00010000"
    }
    return paths.allSatisfy { path in listening.contains { $0.hasSuffix(" \(path)") } }
  }

  /// What it has logged.
  package var log: String {
    WholeFile.text(directory.file("log")) ?? ""
  }

  /// Ends it as an operator does.
  ///
  /// - Returns: its exit status, nil if it did not end.
  package func terminate(milliseconds: Int = 10_000) -> CInt? {
    child.signal(SIGTERM)
    return child.waitForEnd(milliseconds: milliseconds)
  }

  /// How many areas of memory it has mapped, and how many of these are memfds and dma-bufs.
  package var mappings: (all: Int, files: Int) {
    let lines = (WholeFile.text("/proc/\(child.pid)/maps") ?? "").split(separator: "\n")
    return (lines.count, lines.count { $0.contains("memfd:") || $0.contains("dmabuf") })
  }

  /// Descriptors that it has open now.
  package var descriptorCount: Int { child.descriptorCount }
}

/// `pinhole share` as a process of its own.
package final class PinholeShare {
  /// The process.
  package let child: ChildProcess
  private let directory: TemporaryDirectory

  /// Starts it and waits until it listens.
  ///
  /// - Parameters:
  ///   - frames: the producer's socket.
  ///   - copies: where it is to listen.
  ///   - options: what follows these two.
  package init(
    of frames: String, on copies: String, _ options: [String] = []
  ) throws(GuestError) {
    directory = try TemporaryDirectory()
    let log = directory.file("log")
    let out = try doing(log) { () throws(Errno) in
      try OwnedFD.open(log, O_WRONLY | O_CREAT | O_APPEND)
    }
    let sandbox = getenv("PINHOLE_SANDBOX").map { ["--sandbox", String(cString: $0)] } ?? []
    child = try ChildProcess.start(
      [
        Puncher.defaultProgram, "share", "--frames-socket", frames, "--copy-socket", copies,
      ] + sandbox + options, fds: [(out.raw, 1), (out.raw, 2)])
    let deadline = Clock.now + 20_000_000_000
    while !PinholeProcess.isListening(on: [copies]) {
      if let status = child.status {
        throw .unsupported("pinhole share ended with status \(status): \(self.log)")
      }
      guard Clock.now < deadline else { throw .timedOut("pinhole share to listen: \(self.log)") }
      usleep(1000)
    }
  }

  /// What it has logged.
  package var log: String {
    WholeFile.text(directory.file("log")) ?? ""
  }

  /// Ends it as an operator does.
  package func terminate(milliseconds: Int = 10_000) -> CInt? {
    child.signal(SIGTERM)
    return child.waitForEnd(milliseconds: milliseconds)
  }
}
