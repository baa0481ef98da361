import CLinux
import Glibc
import Linux
import Scene

/// Bytes on their way into a stream socket that is never waited for.
///
/// Little is gathered where it lies and handed to the kernel together; what the socket does not
/// take is copied, because a message that was begun has to be finished with the bytes it had
/// then, while the pieces' owner may change or unmap them afterwards. Much is staged at once: one
/// copy by us, and none by the kernel (see ``QEMUStage``). Of a ``StillPicture`` nothing is copied.
///
/// The order of what waits: what was staged before the picture, the picture, the rest of the stage.
final class QEMUOutbox {
  /// What makes sending fail for good, such as `EPIPE`; nothing is sent any more.
  private(set) var failure: Errno?
  /// Bytes copied into memory of our own on their way, since the start.
  private(set) var bytesCopied: UInt64 = 0
  /// Bytes the kernel took, since the start.
  private(set) var bytesSent: UInt64 = 0

  private let socket: OwnedFD
  private let pieces: UnsafeMutablePointer<iovec>
  private var pieceCount = 0
  private var stage: QEMUStage
  private var picture = QEMUStillRun()

  /// `IOV_MAX`: most pieces of one sendmsg(2).
  private static let maxPieces = 1024

  /// Takes over a nonblocking stream socket.
  ///
  /// - Parameters:
  ///   - sendBuffer: bytes asked for SO_SNDBUF, as far as the user may have them; nil leaves it as it
  ///     is.
  ///   - copies: nothing is sent by reference.
  init(_ socket: consuming OwnedFD, sendBuffer: CInt? = nil, copies: Bool = false) {
    let room = try? UnixSocket.growSendBuffer(socket.raw, to: sendBuffer ?? 0)
    stage = QEMUStage(socketRoom: room ?? 0, copies: copies)
    self.socket = socket
    pieces = .allocate(capacity: Self.maxPieces)
    pieces.initialize(repeating: iovec(), count: Self.maxPieces)
  }

  deinit {
    letGo()
    pieces.deallocate()
  }

  /// The socket's descriptor.
  var fd: CInt { socket.raw }

  /// Nothing waits for the socket: the next piece goes straight to the kernel.
  var isIdle: Bool { !isBusy && pieceCount == 0 }

  private var isBusy: Bool { stage.waiting > 0 || picture.isWaiting }

  /// As ``QEMUStage/hasWaited``.
  var hasWaited: Bool { stage.hasWaited }

  /// Bytes that wait in memory of their own.
  var bytesWaiting: Int { stage.waiting }

  /// Adds bytes that stay valid until ``flush()``.
  func add(_ base: UnsafeRawPointer, _ count: Int) {
    guard count > 0, failure == nil else { return }
    guard !isBusy else { return keep(base, count) }
    if pieceCount > 0 {
      let last = pieces[pieceCount - 1]
      if let start = last.iov_base, UnsafeRawPointer(start + last.iov_len) == base {
        pieces[pieceCount - 1].iov_len += count
        return
      }
    }
    if pieceCount == Self.maxPieces {
      flush()
      guard !isBusy else { return keep(base, count) }
    }
    pieces[pieceCount] = iovec(
      iov_base: UnsafeMutableRawPointer(mutating: base), iov_len: count)
    pieceCount += 1
  }

  /// Adds rows of bytes that stay valid until ``flush()``.
  ///
  /// - Parameters:
  ///   - base: the first byte of the first row.
  ///   - count: bytes of each row.
  ///   - stride: bytes from one row to the next.
  func add(_ base: UnsafeRawPointer, rows: Int, _ count: Int, stride: Int) {
    let room = Self.maxPieces - pieceCount
    guard count > 0, count < stride, failure == nil, !isBusy, rows <= room else {
      // They join, wait, or are too many for one call.
      for row in 0..<rows { add(base + row * stride, count) }
      return
    }
    for row in 0..<rows {
      let start = UnsafeMutableRawPointer(mutating: base + row * stride)
      pieces[pieceCount + row] = iovec(iov_base: start, iov_len: count)
    }
    pieceCount += rows
  }

  /// Adds bytes that `fill` writes, all of them, before it returns.
  ///
  /// - Returns: what `fill` returns; after false the bytes are not sent. Also false without memory.
  func add(_ count: Int, _ fill: (UnsafeMutableRawPointer) -> Bool) -> Bool {
    guard count > 0, failure == nil else { return failure == nil }
    keepPieces(from: 0)
    pieceCount = 0
    guard let room = reserve(count) else { return false }
    if fill(room) { return true }
    stage.shorten(by: count)
    return false
  }

  /// Adds bytes of a picture that stays as it is until the peer has read them: it is locked until
  /// then.
  ///
  /// - Returns: false if they have to be added as others are, since the picture cannot be locked or
  ///   another one is on its way.
  func add(_ still: StillPicture, from offset: Int, _ count: Int) -> Bool {
    review()
    guard failure == nil, still.isStill, !picture.isWaiting, picture.hasRoom, count > 0,
      offset >= 0, offset <= still.count, count <= still.count - offset
    else { return false }
    sendPieces()
    guard failure == nil else { return true }
    picture.start(still, offset..<offset + count, after: stage.waiting)
    return true
  }

  /// Unlocks the pictures that the peer has read.
  func review() {
    guard picture.isUnread, let unread = try? UnixSocket.unread(socket.raw) else { return }
    picture.unlock(upTo: bytesSent - min(bytesSent, UInt64(unread)))
  }

  /// Sends no more of any picture, and unlocks them; those that the peer may not have read will not
  /// be written again.
  func letGo() {
    guard picture.isUnread || picture.isWaiting else { return }
    picture.abandon(wasRead: (try? UnixSocket.unread(socket.raw)) == 0)
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

  /// Hands everything to the kernel, and copies what it does not take of the gathered pieces.
  func flush() {
    sendPieces()
    drain()
  }

  private func sendPieces() {
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
    case EAGAIN, ENOBUFS, ENOMEM, EFAULT:
      // EFAULT: the memory behind a piece is gone. The message must still have its header, and the
      // size that it announced: reading what is gone finds zeros, see ``MemoryGuard``.
      keepPieces(from: first)
    default:
      fail(error)
    }
    pieceCount = 0
  }

  private func keepPieces(from first: Int) {
    for index in first..<pieceCount {
      if let base = pieces[index].iov_base { keep(base, pieces[index].iov_len) }
    }
  }

  private func fail(_ error: Errno) {
    failure = error
    stage.clear()
    letGo()
  }

  /// Sends what waits, as far as the socket takes it.
  func drain() {
    guard failure == nil, isBusy else { return }
    do throws(Errno) {
      if picture.isWaiting { try drainPicture() }
      if !picture.isWaiting { try drainStage() }
    } catch {
      fail(error)
    }
  }

  private func drainStage(most: Int = .max) throws(Errno) {
    guard stage.waiting > 0 else { return }
    bytesSent &+= UInt64(try stage.drain(socket.raw, most: most))
  }

  /// Sends what is before the picture, and the picture, as far as the socket takes it.
  private func drainPicture() throws(Errno) {
    let before = stage.waiting
    try drainStage(most: picture.after)
    picture.after -= before - stage.waiting
    guard picture.after == 0 else { return }
    stage.checkWaiting(socket.raw)
    while picture.isWaiting {
      let (refers, pokes) = (!stage.copies, Watchdog.pokes)
      defer { if refers { stage.noteWaiting(since: pokes) } }
      do throws(Errno) {
        let sent = try picture.send(socket.raw, copies: stage.copies)
        guard sent > 0 else { return }
        bytesSent &+= UInt64(sent)
        picture.advance(by: sent, sent: bytesSent)
      } catch {
        guard try stage.goesOn(after: error) else { return }
      }
    }
  }

  private func keep(_ base: UnsafeRawPointer, _ count: Int) {
    guard let room = reserve(count) else { return }
    memcpy(room, base, count)
  }

  /// Room for bytes behind those that wait; without memory the connection has to go.
  private func reserve(_ count: Int) -> UnsafeMutableRawPointer? {
    do throws(Errno) {
      let room = try stage.reserve(count, for: socket.raw)
      bytesCopied &+= UInt64(count)
      return room
    } catch {
      fail(error)
      return nil
    }
  }
}
