import CLinux
import Glibc
import Linux

/// Bytes on their way into a stream socket that is never waited for.
///
/// Pieces are gathered where they lie and handed to the kernel together. What the socket does
/// not take at once is copied, because a message that was begun has to be finished with the
/// bytes it had then, while the pieces' owner may change or unmap them afterwards.
final class QEMUOutbox {
  /// What makes sendmsg(2) fail for good, such as `EPIPE`; nothing is sent any more.
  private(set) var failure: Errno?
  /// Bytes copied because the socket was full, since the start.
  private(set) var bytesCopied: UInt64 = 0
  /// Bytes the kernel took, since the start.
  private(set) var bytesSent: UInt64 = 0

  private let socket: OwnedFD
  private let pieces: UnsafeMutablePointer<iovec>
  private var pieceCount = 0
  private var backlog: UnsafeMutableRawPointer?
  private var capacity = 0
  private var head = 0
  private var tail = 0

  /// `IOV_MAX`: most pieces of one sendmsg(2).
  private static let maxPieces = 1024
  /// A drained backlog larger than this many bytes gives its memory back; a 4K frame is kept.
  private static let keptCapacity = 40 << 20

  /// Takes over a nonblocking stream socket.
  init(_ socket: consuming OwnedFD) {
    self.socket = socket
    pieces = .allocate(capacity: Self.maxPieces)
    pieces.initialize(repeating: iovec(), count: Self.maxPieces)
  }

  deinit {
    pieces.deallocate()
    free(backlog)
  }

  /// The socket's descriptor.
  var fd: CInt { socket.raw }

  /// Nothing waits for the socket: the next piece goes straight to the kernel.
  var isIdle: Bool { head == tail && pieceCount == 0 }

  /// Bytes that wait in memory of their own.
  var bytesWaiting: Int { tail - head }

  /// Adds bytes that stay valid until ``flush()``.
  func add(_ base: UnsafeRawPointer, _ count: Int) {
    guard count > 0, failure == nil else { return }
    guard head == tail else { return keep(base, count) }
    if pieceCount > 0 {
      let last = pieces[pieceCount - 1]
      if let start = last.iov_base, UnsafeRawPointer(start + last.iov_len) == base {
        pieces[pieceCount - 1].iov_len += count
        return
      }
    }
    if pieceCount == Self.maxPieces {
      flush()
      guard head == tail else { return keep(base, count) }
    }
    pieces[pieceCount] = iovec(
      iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: count)
    pieceCount += 1
  }

  /// Sends bytes with a descriptor that travels with the first of them, while nothing waits.
  ///
  /// - Returns: false if the socket is full: nothing was sent then.
  func send(_ bytes: UnsafeRawBufferPointer, with fd: CInt) -> Bool {
    guard isIdle, failure == nil else { return false }
    do throws(Errno) {
      let sent = try UnixSocket.send(socket.raw, bytes, fds: [fd], dontWait: true)
      guard sent > 0 else { return false }
      bytesSent &+= UInt64(sent)
      if sent < bytes.count, let base = bytes.baseAddress { keep(base + sent, bytes.count - sent) }
      return true
    } catch {
      switch error.code {
      case EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS: return false
      default: fail(error)
      }
      return false
    }
  }

  /// Hands the gathered pieces to the kernel and copies what it does not take.
  func flush() {
    var first = 0
    defer { pieceCount = 0 }
    while first < pieceCount, failure == nil {
      do throws(Errno) {
        let rest = UnsafeBufferPointer(start: pieces + first, count: pieceCount - first)
        var sent = try UnixSocket.send(socket.raw, gather: rest, dontWait: true)
        guard sent > 0 else { return settle(from: first, Errno(EAGAIN, "sendmsg")) }
        bytesSent &+= UInt64(sent)
        while first < pieceCount, sent >= pieces[first].iov_len {
          sent -= pieces[first].iov_len
          first += 1
        }
        guard first < pieceCount, sent > 0, let base = pieces[first].iov_base else { continue }
        pieces[first].iov_base = base + sent
        pieces[first].iov_len -= sent
      } catch {
        settle(from: first, error)
      }
    }
  }

  /// Deals with pieces that could not be sent; leaves none.
  private func settle(from first: Int, _ error: Errno) {
    switch error.code {
    case EAGAIN, ENOBUFS, ENOMEM:
      for index in first..<pieceCount {
        if let base = pieces[index].iov_base { keep(base, pieces[index].iov_len) }
      }
    case EFAULT:
      // The memory behind a piece is gone. The message must still have the size it announced.
      for index in first..<pieceCount { keepZeros(pieces[index].iov_len) }
    default:
      fail(error)
    }
    pieceCount = 0
  }

  private func fail(_ error: Errno) {
    failure = error
    head = 0
    tail = 0
  }

  /// Sends what waits, as far as the socket takes it.
  func drain() {
    while head < tail, failure == nil, let backlog {
      do throws(Errno) {
        let rest = UnsafeRawBufferPointer(start: backlog + head, count: tail - head)
        let sent = try UnixSocket.send(socket.raw, rest, dontWait: true)
        guard sent > 0 else { return }
        bytesSent &+= UInt64(sent)
        head += sent
      } catch {
        switch error.code {
        case EAGAIN, ENOBUFS, ENOMEM: return
        default: fail(error)
        }
      }
    }
    head = 0
    tail = 0
    guard capacity > Self.keptCapacity else { return }
    free(backlog)
    backlog = nil
    capacity = 0
  }

  private func keep(_ base: UnsafeRawPointer, _ count: Int) {
    guard let room = reserve(count) else { return }
    memcpy(room, base, count)
  }

  private func keepZeros(_ count: Int) {
    guard let room = reserve(count) else { return }
    memset(room, 0, count)
  }

  /// Room for bytes at the end of the backlog; without memory the connection has to go.
  private func reserve(_ count: Int) -> UnsafeMutableRawPointer? {
    if tail + count > capacity {
      let wanted = max(tail + count, capacity + capacity / 2, 4096)
      guard let grown = realloc(backlog, wanted) else {
        fail(Errno(ENOMEM, "realloc"))
        return nil
      }
      backlog = grown
      capacity = wanted
    }
    guard let backlog else { return nil }
    let room = backlog + tail
    tail += count
    bytesCopied &+= UInt64(count)
    return room
  }
}
