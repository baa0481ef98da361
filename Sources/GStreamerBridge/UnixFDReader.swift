import Bridge
import Glibc
import Linux
import Logging
import PinholeFrames

/// One `unixfdsrc`, with a connection to the frame socket of its own: a reader that stands still
/// keeps no other one waiting.
final class UnixFDReader {
  private let socket: OwnedFD
  private let output: UInt32
  private let loop: EventLoop
  private var token: EventLoop.Token?
  private var feed: FrameFeed?
  private let ended: () -> Void
  private var isOver = false
  private var input: [UInt8] = []
  private var outgoing: [UInt8] = []
  private var picture: UnixFDWire.Picture?
  /// Frames that the reader has, by the number that it knows them by.
  private var lent: [UInt64: (ReceivedFrame, ReceivedBuffer)] = [:]
  private let packed = PackedRows()
  private var lastNumber: UInt64 = 0

  init(
    _ socket: consuming OwnedFD, frames: String, output: UInt32, loop: EventLoop, log: Logger,
    ended: @escaping () -> Void
  ) throws(Errno) {
    try UnixSocket.setNonblocking(socket.raw, true)
    self.socket = socket
    self.output = output
    self.loop = loop
    self.ended = ended
    var handlers = FrameFeed.Handlers()
    handlers.frame = { [unowned self] in show($0, $1) }
    handlers.lost = { [unowned self] in lent = [:] }
    token = try loop.watch(self.socket.raw, for: .readable) { [unowned self] in turn($0) }
    feed = FrameFeed(
      path: frames, name: "pinhole gst", loop: loop, log: log, handlers: handlers)
  }

  deinit { if let token { loop.unwatch(token) } }

  /// Tells the reader that nothing follows.
  func finish() {
    guard outgoing.isEmpty else { return }
    _ = try? send(UnixFDWire.end)
  }

  private func over() {
    guard !isOver else { return }
    isOver = true
    if let token { loop.unwatch(token) }
    token = nil
    ended()
  }

  private func show(_ frame: ReceivedFrame, _ buffer: ReceivedBuffer) {
    guard !isOver, frame.output == output else { feed?.done(frame, of: buffer); return }
    // Nobody reads fast enough: this one is left out.
    guard outgoing.isEmpty, let order = OpaqueOrder(buffer.fourcc), !buffer.isYInverted
    else { feed?.done(frame, of: buffer); return }
    let crop = frame.crop
    let new = UnixFDWire.Picture(
      order: order, width: crop.width, height: crop.height, stride: buffer.stride,
      offset: buffer.offset + UInt64(crop.y) * UInt64(buffer.stride) + UInt64(crop.x) * 4)
    do throws(Errno) {
      if picture.map({ ($0.width, $0.height) != (new.width, new.height) || $0.order != order })
        ?? true
      {
        picture = new
        guard try send(UnixFDWire.caps(of: new)) else {
          picture = nil
          feed?.done(frame, of: buffer)
          return
        }
      }
      lastNumber &+= 1
      if new.isPacked {
        lent[lastNumber] = (frame, buffer)
        let message = UnixFDWire.buffer(id: lastNumber, timestamp: frame.timestamp, new)
        guard try !send(message, fd: buffer.descriptor) else { return }
        lent[lastNumber] = nil
      } else if let fd = try packed.copy(new, of: buffer, number: lastNumber) {
        var copy = new
        copy.stride = new.width * 4
        copy.offset = 0
        let message = UnixFDWire.buffer(id: lastNumber, timestamp: frame.timestamp, copy)
        if try !send(message, fd: fd.raw) { packed.release(lastNumber) }
      }
      feed?.done(frame, of: buffer)
    } catch {
      feed?.done(frame, of: buffer)
      over()
    }
  }

  /// - Returns: false if there was no room for the first byte; the rest of a message is kept.
  private func send(_ bytes: [UInt8], fd: CInt? = nil) throws(Errno) -> Bool {
    guard outgoing.isEmpty else { return false }
    let raw = socket.raw
    do throws(Errno) {
      let sent = try bytes.withUnsafeBytes { bytes in
        Result { () throws(Errno) in
          try UnixSocket.send(raw, bytes, fds: fd.map { [$0] } ?? [], dontWait: true)
        }
      }.get()
      outgoing = Array(bytes.dropFirst(sent))
      if !outgoing.isEmpty { try rewatch() }
      return true
    } catch {
      if error.code == EAGAIN { return false }
      throw error
    }
  }

  private func rewatch() throws(Errno) {
    guard let token else { return }
    try loop.change(token, to: outgoing.isEmpty ? .readable : [.readable, .writable])
  }

  private func turn(_ events: EventLoop.Events) {
    do throws(Errno) {
      if !outgoing.isEmpty {
        let rest = outgoing
        outgoing = []
        if try !send(rest) { outgoing = rest }
        try rewatch()
      }
      guard try receive() else { return over() }
    } catch { return over() }
  }

  /// - Returns: false when the reader is gone or says what no reader says.
  private func receive() throws(Errno) -> Bool {
    var chunk = [UInt8](repeating: 0, count: 4096)
    let (raw, sender) = (socket.raw, socket.sender)
    var fds: [CInt] = []
    let received: UnixSocket.Received
    do throws(Errno) {
      received = try chunk.withUnsafeMutableBytes { room in
        Result { () throws(Errno) in
          try UnixSocket.receive(
            raw, into: room, fds: &fds, maxFDs: 0, dontWait: true, from: sender)
        }
      }.get()
    } catch {
      if error.code == EAGAIN { return true }
      throw error
    }
    guard received.count > 0, !received.truncated else { return false }
    input += chunk.prefix(received.count)
    let size = UnixFDWire.headerSize + 8
    while input.count >= UnixFDWire.headerSize {
      let (command, length) = input.withUnsafeBytes {
        (
          $0.loadUnaligned(as: UInt32.self),
          $0.loadUnaligned(fromByteOffset: 4, as: UInt32.self)
        )
      }
      guard command == UnixFDWire.releaseBuffer, length == 8 else { return false }
      guard input.count >= size else { return true }
      let number = input.withUnsafeBytes {
        $0.loadUnaligned(fromByteOffset: UnixFDWire.headerSize, as: UInt64.self)
      }
      input.removeFirst(size)
      if let (frame, buffer) = lent.removeValue(forKey: number) { feed?.done(frame, of: buffer) }
      packed.release(number)
    }
    return true
  }
}
