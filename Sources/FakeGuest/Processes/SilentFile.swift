import CLinux
import Glibc
import Linux

/// A file on FUSE whose server answers until it is told to be silent. After that whoever asks it
/// anything waits, and cannot be interrupted: a descriptor's close asks too (`FUSE_FLUSH`).
///
/// The server ends with this object, and with it all that waits for it.
package final class SilentFile {
  /// A mount of a single file.
  private let mountPoint: String
  private let directory: TemporaryDirectory
  private let state: SharedState
  private var server: Thread?
  private var file: SharedFD?

  /// What the server's thread and others share.
  private final class SharedState: Sendable {
    let isOver = Locked(false)
    let isSilent = Locked(false)
    let asked = Locked<[UInt32]>([])
  }

  /// The requests that the file's last descriptors make, linux/fuse.h.
  package static let release: UInt32 = 18
  package static let flush: UInt32 = 25

  /// Whether this process may mount such a file.
  package static var isPossible: Bool { (try? SilentFile()) != nil }

  /// Mounts one and opens it.
  package init() throws(GuestError) {
    let directory = try TemporaryDirectory()
    let mountPoint = directory.file("silent")
    let state = SharedState()
    self.directory = directory
    self.mountPoint = mountPoint
    self.state = state
    let connection = try doing("/dev/fuse") { () throws(Errno) in
      _ = try OwnedFD.open(mountPoint, O_WRONLY | O_CREAT)
      let connection = SharedFD(try OwnedFD.open("/dev/fuse", O_RDWR | O_NONBLOCK))
      let options = "fd=\(connection.raw),rootmode=100600,user_id=\(getuid()),group_id=\(getgid())"
      try retrying("mount") {
        mount("pinhole-test", mountPoint, "fuse", UInt(MS_NOSUID | MS_NODEV), options)
      }
      return connection
    }
    do throws(GuestError) {
      try doing(mountPoint) { () throws(Errno) in
        server = try Thread("silent-file") { Self.serve(connection, state) }
        file = SharedFD(try OwnedFD.open(mountPoint, O_RDWR))
      }
    } catch {
      end()
      throw error
    }
  }

  deinit { end() }

  /// The open file; -1 once it was given away.
  package var raw: CInt { file?.raw ?? -1 }

  /// Leaves the file to whoever has been sent it and has not received it yet; the server is silent
  /// from here on.
  package func giveAway() {
    file = nil
    state.isSilent.withLock { $0 = true }
  }

  /// What the server was asked since it is silent.
  package var asked: [UInt32] { state.asked.withLock { $0 } }

  /// Ends the server, and all that waits for it.
  package func end() {
    state.isOver.withLock { $0 = true }
    // Its thread has the last descriptor of the connection.
    server = nil
    file = nil
    umount2(mountPoint, CInt(MNT_DETACH))
  }

  private static func serve(_ connection: SharedFD, _ state: SharedState) {
    var request = [UInt8](repeating: 0, count: 1 << 16)
    while !state.isOver.withLock({ $0 }) {
      var ready = pollfd(fd: connection.raw, events: Int16(POLLIN), revents: 0)
      guard poll(&ready, 1, 20) > 0 else { continue }
      let count = read(connection.raw, &request, request.count)
      if count < 0, errno == EAGAIN || errno == EINTR || errno == ENOENT { continue }
      guard count >= 40 else { return }
      let (operation, unique) = request.withUnsafeBytes {
        ($0.load(fromByteOffset: 4, as: UInt32.self), $0.load(fromByteOffset: 8, as: UInt64.self))
      }
      if state.isSilent.withLock({ $0 }) {
        state.asked.withLock { $0.append(operation) }
        continue
      }
      guard let body = answer(operation) else { continue }
      var reply: [UInt8] = []
      // fuse_out_header
      for word in [UInt32(16 + body.count * 4), 0] { reply.append(word) }
      withUnsafeBytes(of: unique) { reply += $0 }
      for word in body { reply.append(word) }
      _ = write(connection.raw, reply, reply.count)
    }
  }

  /// The words of an answer, linux/fuse.h; nil where none is waited for.
  private static func answer(_ operation: UInt32) -> [UInt32]? {
    switch operation {
    case 2, 36: nil  // FORGET, INTERRUPT
    // INIT: version 7.31, 4 KiB at a time, times to the nanosecond; no features.
    case 26: [7, 31, 0, 0, 0, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    case 14: [1, 0, 0, 0]  // OPEN
    default: []
    }
  }
}

extension [UInt8] {
  fileprivate mutating func append(_ word: UInt32) {
    Swift.withUnsafeBytes(of: word) { self += $0 }
  }
}
