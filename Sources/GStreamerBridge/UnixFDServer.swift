import Glibc
import Linux
import Logging

/// Where `unixfdsrc` connects. It belongs to the event loop's thread.
public final class UnixFDServer {
  private let frames: String
  private let output: UInt32
  private let maxReaders: Int
  private let loop: EventLoop
  private let log: Logger
  private let listener: Listener
  private var readers: [UInt64: UnixFDReader] = [:]
  private var leaving: [UInt64] = []
  private var lastNumber: UInt64 = 0

  /// Listens.
  ///
  /// - Parameters:
  ///   - path: of the socket for GStreamer, mode 0600.
  ///   - frames: a frame or copy socket.
  ///   - output: which output readers see.
  ///   - maxReaders: readers at a time.
  public init(
    on path: String, frames: String, output: UInt32, maxReaders: Int = 8, loop: EventLoop,
    log: Logger
  ) throws(ListenError) {
    self.frames = frames
    self.output = output
    self.maxReaders = maxReaders
    self.loop = loop
    self.log = log
    listener = try Listener(.path(path, .stream, takesDescriptors: false), on: loop)
    listener.failed = { log.warning("cannot accept a reader: \($0)") }
    listener.connected = { [unowned self] in accept($0) }
    loop.everyTurn { [weak self] in self?.dismiss() }
  }

  /// Ends all streams and removes the socket.
  public func stop() {
    for reader in readers.values { reader.finish() }
    readers = [:]
    listener.stop()
  }

  private func accept(_ socket: consuming OwnedFD) {
    guard readers.count < maxReaders else {
      return log.warning("a reader was turned away: there are \(readers.count)")
    }
    lastNumber &+= 1
    let number = lastNumber
    do throws(Errno) {
      readers[number] = try UnixFDReader(
        socket, frames: frames, output: output, loop: loop, log: log
      ) { [unowned self] in leaving.append(number) }
      log.info("reader \(number) has connected")
    } catch { log.warning("a reader cannot be served: \(error)") }
  }

  private func dismiss() {
    for number in leaving where readers.removeValue(forKey: number) != nil {
      log.info("reader \(number) has left")
    }
    leaving.removeAll()
  }
}
