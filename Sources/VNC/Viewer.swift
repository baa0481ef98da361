import Glibc
import Linux
import PinholeInput
import RFB

/// One viewer's connection.
final class Viewer {
  /// Which output it looks at.
  let output: Int
  /// What it said and sees.
  let session: RFBSession
  /// Its number, for logs.
  let number: UInt64
  private let socket: OwnedFD
  private let loop: EventLoop
  private let input: InputLink?
  private var keyboard: Keyboard
  private var token: EventLoop.Token?
  private var watched: EventLoop.Events = .readable
  /// When it last took bytes or had nothing to take.
  private(set) var lastProgress = Clock.now
  /// When it last said anything, or had nothing to say.
  private(set) var lastWord = Clock.now
  /// Why it is to be disconnected.
  private(set) var end: String?
  /// Something came since ``expire(after:)``.
  private var isLively = false
  /// An update was under way.
  private var wasBusy = false
  /// A picture is on its way that is newer than the one at hand; nanoseconds of ``Clock``.
  private var waitsUntil: UInt64 = 0

  init(
    _ socket: consuming OwnedFD, output: Int, number: UInt64, session: RFBSession,
    input: InputLink?, layout: KeyLayout, loop: EventLoop
  ) throws(Errno) {
    self.socket = socket
    self.output = output
    self.number = number
    self.session = session
    self.input = input
    self.loop = loop
    keyboard = Keyboard(layout: layout, output: output)
    token = try loop.watch(self.socket.raw, for: .readable) { [unowned self] in ready($0) }
  }

  deinit { if let token { loop.unwatch(token) } }

  /// Some of the picture, or the cursor, is new.
  func tell(_ news: FrameSource.News) {
    switch news {
    case .damage(let areas):
      isLively = true
      waitsUntil = 0
      for area in areas { session.damaged(area) }
    case .everything:
      isLively = true
      waitsUntil = 0
      session.replaced()
    case .cursor(let image, let x, let y): session.show(cursor: image, x: x, y: y)
    }
  }

  /// Does not begin its first update before a newer frame is there, or this time is over.
  func wait(_ nanoseconds: UInt64) { waitsUntil = Clock.now + nanoseconds }

  /// It will want a picture soon, or wants one: once after each update, and while it has nothing.
  func takesNewest() -> Bool {
    let isBusy = session.isBusy
    defer { wasBusy = isBusy }
    return session.isHungry || (wasBusy && !isBusy)
  }

  /// Watches for room in the socket if there is something to send.
  func settle() {
    guard end == nil else { return }
    let mayBegin = session.hasWork && (waitsUntil == 0 || Clock.now >= waitsUntil)
    if mayBegin { waitsUntil = 0 }
    let wants: EventLoop.Events =
      session.hasOutgoing || mayBegin ? [.readable, .writable] : .readable
    guard wants != watched, let token else { return }
    do throws(Errno) {
      try loop.change(token, to: wants)
      watched = wants
    } catch { end = "\(error)" }
  }

  /// Looks at the clock, about once a second.
  ///
  /// - Parameter timeout: nanoseconds that a viewer may take nothing, or ask for nothing while
  ///   there is something for it.
  func expire(after timeout: UInt64) {
    let now = Clock.now
    if !session.hasOutgoing { lastProgress = now }
    if session.isGreeted, !session.isBehind { lastWord = now }
    if now - lastProgress > timeout {
      end = "it has taken nothing for \(timeout / 1_000_000_000) s"
    } else if now - lastWord > timeout {
      end = "it has asked for nothing for \(timeout / 1_000_000_000) s"
    }
    // A still picture is sent as it is.
    if !isLively { session.refine() }
    isLively = false
  }

  private func ready(_ events: EventLoop.Events) {
    guard end == nil else { return }
    if events.contains(.readable) || events.contains(.hangUp) || events.contains(.error) {
      receive()
    }
    if end == nil, events.contains(.writable) { send() }
  }

  private func receive() {
    do throws(Errno) {
      let (raw, sender) = (socket.raw, socket.sender)
      var chunk = [UInt8](repeating: 0, count: 4096)
      let received = try chunk.withUnsafeMutableBytes { room in
        Result { () throws(Errno) in
          var fds: [CInt] = []
          return try UnixSocket.receive(
            raw, into: room, fds: &fds, maxFDs: 0, dontWait: true, from: sender)
        }
      }.get()
      guard !received.truncated else {
        end = "it sent descriptors, for which there is no use"
        return
      }
      let count = received.count
      guard count > 0 else {
        end = "it has left"
        return
      }
      lastWord = Clock.now
      try take(chunk.span.extracting(first: count))
    } catch {
      if error.code != EAGAIN { end = error.code == ECONNRESET ? "it has left" : "\(error)" }
    }
  }

  private func take(_ bytes: Span<UInt8>) throws(Errno) {
    do throws(RFBError) {
      for event in Self.merged(try session.receive(bytes)) {
        guard let input else { continue }
        for moment in keyboard.moments(of: event) where !moment.isEmpty {
          input.send(moment.events, at: moment.place)
        }
      }
    } catch { end = "\(error)" }
  }

  /// Of motions without a click between them the last one.
  private static func merged(_ inputs: [RFBInput]) -> [RFBInput] {
    var out: [RFBInput] = []
    for input in inputs {
      if case .pointer(_, _, _, _, let now) = input,
        case .pointer(_, _, _, _, let before)? = out.last, now == before
      {
        out.removeLast()
      }
      out.append(input)
    }
    return out
  }

  /// One piece, so that others get their turn.
  private func send() {
    do throws(RFBError) {
      try session.produce()
    } catch {
      end = "\(error)"
      return
    }
    guard session.hasOutgoing else {
      if session.isRefused { end = "it wants a security that was not offered" }
      return
    }
    do throws(Errno) {
      let raw = socket.raw
      let start = session.sentCount
      let count = try session.outgoing.withUnsafeBytes { bytes in
        Result { () throws(Errno) in
          try UnixSocket.send(
            raw, UnsafeRawBufferPointer(rebasing: bytes[start...]), dontWait: true)
        }
      }.get()
      session.sent(count)
      lastProgress = Clock.now
    } catch {
      if error.code == EAGAIN { return }
      end = error.code == EPIPE || error.code == ECONNRESET ? "it has left" : "\(error)"
    }
  }
}

extension Keyboard.Moment {
  /// Nothing happened.
  var isEmpty: Bool { events.isEmpty && place == nil }
}
